"""The table of adapters: the only file that names concrete ones."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from crucible_kitchen.errors import ConfigError, did_you_mean

_HOME = "crucible_kitchen.adapters"
# How alike two names are, in [0, 1], where one is the other with a letter or two wrong.
_A_SLIP = 0.85


def _table(port: str, kind: str, *systems: str) -> tuple[str, Mapping[str, str]]:
    return port, MappingProxyType({s: f"{_HOME}.{s}.{port}:{kind}" for s in systems})


ADAPTERS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    dict(
        (
            _table("training_client", "TrainingClient", "local", "tinker", "noop"),
            _table("sampling_client", "SamplingClient", "local", "tinker", "noop"),
            _table("dataset_store", "DatasetStore", "builtin", "files", "huggingface", "noop"),
            _table("blob_store", "BlobStore", "files", "fsspec", "noop"),
            _table("hub_client", "HubClient", "wheel", "huggingface", "noop"),
            _table(
                "metrics_store", "MetricsStore", "files", "tensorboard", "mlflow", "wandb", "noop"
            ),
            _table("completer", "Completer", "local", "openai", "tinker", "noop"),
            _table("evaluator", "Evaluator", "local", "noop"),
            _table("model_registry", "ModelRegistry", "files", "mlflow", "noop"),
        )
    )
)
"""Port -> system -> where its adapter is, as ``module:class``."""


def load_adapter(port: str, system: str) -> Any:
    """The class of an adapter.

    Raises:
        ConfigError: there is no such port, or no adapter of that system for it.
    """
    if port not in ADAPTERS:
        raise ConfigError(f"adapters: no port {port!r}; {did_you_mean(port, ADAPTERS)}")
    if system not in ADAPTERS[port]:
        raise ConfigError(
            f"adapters: {port} has no adapter {system!r}; {did_you_mean(system, ADAPTERS[port])}"
        )
    module, _, name = ADAPTERS[port][system].partition(":")
    return getattr(importlib.import_module(module), name)


def load_exporter() -> Any:
    """What writes trained weights for other programs."""
    return importlib.import_module(f"{_HOME}.local.exporter").export


def load_run_folder() -> Any:
    """What gives each of several processes a folder to take up a run in."""
    return importlib.import_module(f"{_HOME}.local.run_folder").RunFolder


def load_by_name() -> Any:
    """The data set store over others, each for the names it was given."""
    return importlib.import_module(f"{_HOME}.compose").ByNameDatasetStore


def named_adapters(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Adapters as `run` takes them, with names of systems turned into classes.

    Args:
        given: port -> name of a system, ``{"name": ..., option: value}``, or what
            `ports.resolve` takes.
    Raises:
        ConfigError: an unknown port or system, or a mapping without a name.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(
            f"adapters: adapters must be a mapping from port to adapter, got {given!r:.60}"
        )
    made: dict[str, Any] = {}
    for port, one in (given or {}).items():
        if isinstance(one, str):
            made[port] = load_adapter(port, one)
        elif isinstance(one, Mapping):
            options = dict(one)
            if not isinstance(options.get("name"), str):
                raise ConfigError(f"adapters: {port} must have a name, such as `name: noop`")
            made[port] = (load_adapter(port, options.pop("name")), options)
        else:
            made[port] = one
    return made


def find_hub(model: str) -> Any:
    """A client of the hub that knows a model."""
    return load_adapter("hub_client", hub_of(model))()


def hub_of(model: str) -> str:
    """The hub that knows a model; a slip in the name of one of ours is told as such by its hub."""
    wheels = importlib.import_module(f"{_HOME}.wheel.hub_client").WHEELS
    return "wheel" if difflib.get_close_matches(model, wheels, 1, _A_SLIP) else "huggingface"
