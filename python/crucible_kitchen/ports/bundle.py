"""`Ports`: the adapters of a run, and `resolve`, which makes them from what a user passes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

from crucible_kitchen.errors import CrucibleError, PortError, Problem, did_you_mean

from .base import Port
from .blob_store import BlobStore
from .completer import Completer
from .dataset_store import DatasetStore
from .evaluator import Evaluator
from .hub_client import HubClient
from .metrics_store import MetricsStore
from .model_registry import ModelRegistry
from .sampling_client import SamplingClient
from .training_client import TrainingClient

PORTS: Final[Mapping[str, type[Port]]] = MappingProxyType(
    {
        port.name: port
        for port in (
            TrainingClient,
            SamplingClient,
            DatasetStore,
            BlobStore,
            HubClient,
            MetricsStore,
            Completer,
            Evaluator,
            ModelRegistry,
        )
    }
)
"""Every port by name."""


class Ports:
    """The adapters of a run by port; asking for one that was not passed is a `PortError`.

    Args:
        adapters: port name -> adapter. Use `resolve` for what a user passes.
    """

    __slots__ = ("_adapters",)

    def __init__(self, adapters: Mapping[str, Port] | None = None) -> None:
        object.__setattr__(self, "_adapters", MappingProxyType(dict(adapters or {})))

    _adapters: Mapping[str, Port]

    @property
    def training_client(self) -> TrainingClient:
        """A model that learns."""
        return cast(TrainingClient, self[TrainingClient.name])

    @property
    def sampling_client(self) -> SamplingClient:
        """A model that writes."""
        return cast(SamplingClient, self[SamplingClient.name])

    @property
    def dataset_store(self) -> DatasetStore:
        """Rows to learn from."""
        return cast(DatasetStore, self[DatasetStore.name])

    @property
    def blob_store(self) -> BlobStore:
        """Bytes by path."""
        return cast(BlobStore, self[BlobStore.name])

    @property
    def hub_client(self) -> HubClient:
        """Published models and data sets."""
        return cast(HubClient, self[HubClient.name])

    @property
    def metrics_store(self) -> MetricsStore:
        """Numbers of a run, kept beyond it."""
        return cast(MetricsStore, self[MetricsStore.name])

    @property
    def completer(self) -> Completer:
        """Answers to conversations."""
        return cast(Completer, self[Completer.name])

    @property
    def evaluator(self) -> Evaluator:
        """How good a model is."""
        return cast(Evaluator, self[Evaluator.name])

    @property
    def model_registry(self) -> ModelRegistry:
        """Which trained model is which."""
        return cast(ModelRegistry, self[ModelRegistry.name])

    def __getitem__(self, name: str) -> Port:
        if name not in PORTS:
            raise PortError(f"ports: no port {name!r}; {did_you_mean(name, PORTS)}")
        try:
            return self._adapters[name]
        except KeyError:
            raise PortError(
                f"ports: {name} is needed and no adapter was passed; "
                f"pass adapters={{{name!r}: ...}}, a {PORTS[name].__name__}"
            ) from None

    def get(self, name: str) -> Port | None:
        """The adapter of a port, None where none was passed."""
        return self._adapters.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._adapters

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Ports: {name} cannot be set; resolve another set of adapters")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={type(port).__name__}" for name, port in self._adapters.items())
        return f"Ports({shown})"

    def close(self) -> None:
        """Close every adapter, last first, each even if another one fails.

        Raises:
            PortError: some could not be closed; the first one's error is its cause.
        """
        failed: list[tuple[str, CrucibleError | OSError]] = []
        for name, adapter in reversed(list(self._adapters.items())):
            try:
                adapter.close()
            except (CrucibleError, OSError) as error:
                failed.append((name, error))
        if failed:
            said = "; ".join(f"{name}: {error}" for name, error in failed)
            raise PortError(f"ports: could not close {said}") from failed[0][1]


def find_problems(adapters: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with a user's adapters, without making any of them."""
    problems = []
    for name, given in adapters.items():
        port = PORTS.get(name)
        if port is None:
            message = f"there is no port {name!r}"
            problems.append(
                Problem("unknown-port", str(name), message, help=did_you_mean(str(name), PORTS))
            )
            continue
        message, advice = _wrong_with(port, given)
        if message:
            problems.append(Problem("bad-adapter", name, message, help=advice))
    return problems


def resolve(adapters: Mapping[str, Any] | Ports) -> Ports:
    """A user's adapters, made and checked.

    Args:
        adapters: port name -> an instance, a class, or ``(class, {options})``.
    Raises:
        PortError: any of them is no adapter of its port; the message lists every problem. Or one
            could not be made; those made before it are closed.
    """
    if isinstance(adapters, Ports):
        return adapters
    if not isinstance(adapters, Mapping):
        raise PortError(
            "ports: adapters must be a mapping from port name to adapter, "
            f"got {type(adapters).__name__}"
        )
    problems = find_problems(adapters)
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise PortError(f"ports: {len(problems)} problem(s) with the adapters:\n{lines}")
    made: dict[str, Port] = {}
    owned: list[Port] = []
    for name, given in adapters.items():
        if isinstance(given, Port):
            made[name] = given
            continue
        factory, options = _class_and_options(given)
        try:
            made[name] = factory(**options)
        except (ImportError, OSError, TypeError, ValueError, CrucibleError) as error:
            for port in reversed(owned):
                port.close()
            if isinstance(error, CrucibleError):
                raise
            raise PortError(f"{name}: could not make {_named(factory)}: {error}") from error
        owned.append(made[name])
    return Ports(made)


def _class_and_options(given: Any) -> tuple[Any, Mapping[str, Any]]:
    if isinstance(given, tuple):
        factory, options = given
        return factory, options
    return given, {}


def _wrong_with(port: type[Port], given: Any) -> tuple[str, str]:
    """What is wrong with one adapter and what to do about it; empty where nothing is."""
    wanted = f"an instance of {port.__name__}, a class, or (class, {{options}})"
    advice = f"pass a class derived from ports.{port.__name__}, or an object of one"
    if isinstance(given, port):
        return "", ""
    if isinstance(given, tuple):
        shaped = len(given) == 2 and inspect.isclass(given[0]) and isinstance(given[1], Mapping)
        if not shaped:
            return f"must be {wanted}, got {given!r}", advice
    factory, options = _class_and_options(given)
    if given is None or isinstance(given, str | int | float | list | dict):
        return f"must be {wanted}, got {given!r}", advice
    is_class = inspect.isclass(factory)
    kind = factory if is_class else type(factory)
    missing = _missing_methods(port, kind)
    if missing:
        return f"{_named(kind)} lacks {', '.join(missing)}", f"see the methods of {_named(port)}"
    if not issubclass(kind, port):
        return (
            f"{_named(kind)} is not a {port.__name__}",
            f"declare it as class {kind.__name__}(ports.{port.__name__})",
        )
    return _wrong_options(kind, options)


def _missing_methods(port: type[Port], kind: type) -> list[str]:
    required = sorted(port.__abstractmethods__)
    undone: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    return [name for name in required if name in undone or not callable(getattr(kind, name, None))]


def _wrong_options(kind: type, options: Mapping[str, Any]) -> tuple[str, str]:
    signature = inspect.signature(kind)
    try:
        signature.bind(**options)
    except TypeError as error:
        known = list(signature.parameters)
        unknown = [name for name in options if name not in known]
        advice = did_you_mean(str(unknown[0]), known) if unknown else ""
        return f"{_named(kind)} cannot be made: {error}", advice
    return "", ""


def _named(kind: Any) -> str:
    module = getattr(kind, "__module__", "")
    return f"{module}.{getattr(kind, '__qualname__', kind)}" if module else str(kind)
