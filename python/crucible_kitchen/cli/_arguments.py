"""What several commands take: configuration as ``key=value``, and adapters by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from crucible_kitchen.bootstrap import ADAPTERS
from crucible_kitchen.errors import ConfigError, did_you_mean
from crucible_kitchen.recipes import find_target, parse


def add_target(parser: argparse.ArgumentParser) -> None:
    """``TARGET [key=value ...] [--adapter port=name] [--adapters name]``."""
    parser.add_argument(
        "target", help="a recipe's name, or a YAML file with a recipe or a workflow"
    )
    parser.add_argument(
        "config",
        nargs="*",
        metavar="key=value",
        help="configuration; values are YAML, such as learning_rate=2e-5",
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="port=name",
        help="adapter of one port, such as training_client=noop; may be repeated",
    )
    parser.add_argument(
        "--adapters", metavar="name", help="adapter of every port of the recipe, such as noop"
    )


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """What reads an argument that must be a whole number within bounds, for argparse."""
    wanted = f"a whole number of at least {low}" + ("" if high is None else f", at most {high}")

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
        return number

    return read


def read_config(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts as a mapping.

    Raises:
        ConfigError: one has no ``=``, no key, a key twice, or a value that is not YAML.
    """
    config: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"configuration must be key=value, got {pair!r}")
        if key in config:
            raise ConfigError(f"configuration must have each key once, got {key!r} twice")
        config[key] = parse(value, f"the value of {key}")
    return config


def read_adapters(target: str, everywhere: str | None, each: Sequence[str]) -> dict[str, Any]:
    """Names of adapters by port, from ``--adapters`` and then ``--adapter``.

    Raises:
        ConfigError: an unknown target, port or adapter.
    """
    chosen: dict[str, Any] = {}
    if everywhere is not None:
        systems = {system for table in ADAPTERS.values() for system in table}
        if everywhere not in systems:
            raise ConfigError(
                f"--adapters: no adapter {everywhere!r}; {did_you_mean(everywhere, systems)}"
            )
        recipe = find_target(target).recipe
        ports = (*recipe.required_ports, *recipe.optional_ports) if recipe else tuple(ADAPTERS)
        chosen = {port: everywhere for port in ports if everywhere in ADAPTERS[port]}
    for pair in each:
        port, equals, name = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--adapter must be port=name, got {pair!r}")
        chosen[port] = name
    return chosen
