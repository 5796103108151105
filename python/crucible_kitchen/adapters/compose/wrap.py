"""One way to stand in front of an adapter, for every port."""

from __future__ import annotations

import functools
import inspect
from abc import ABCMeta
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import PORTS, Port

P = TypeVar("P", bound=Port)
Around = Callable[[str, tuple[Any, ...], dict[str, Any]], Any]
"""What happens at a call: given the method's name and arguments, its result."""
KEEPING: Final = ("owns", "save_value", "load_value", "has_gradients", "rewind")
"""Methods by which the journal of a run has an adapter keep what it holds."""


def port_of(adapter: Any) -> type[Port]:
    """The port that an adapter implements.

    Raises:
        PortError: it implements none.
    """
    for port in PORTS.values():
        if isinstance(adapter, port):
            return port
    raise PortError(f"compose: adapter must implement a port, got {adapter!r}")


def methods_of(port: type[Port]) -> tuple[str, ...]:
    """The names of a port's methods, without those that are every adapter's own."""
    return tuple(
        name
        for name, member in inspect.getmembers(port, inspect.isfunction)
        if not name.startswith("_") and name not in ("close", *KEEPING)
    )


def arguments_of(
    port: type[Port], method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, defaults filled in; the same however they were passed.

    Raises:
        TypeError: the port's method does not take them.
    """
    bound = inspect.signature(getattr(port, method)).bind(None, *args, **kwargs)
    bound.apply_defaults()
    named = dict(bound.arguments)
    del named["self"]
    # What a port leaves to its adapters, such as `**options`, stands beside the rest.
    for name, parameter in inspect.signature(getattr(port, method)).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named.update(named.pop(name))
    return named


def in_front_of(
    port: type[Port], inner: Port | None, label: str, around: Around, close: Callable[[], None]
) -> Any:
    """An adapter of `port` whose every call goes to `around`.

    Args:
        inner: what stands behind; what it has beyond the port can be asked of the front, too.
        label: says in its class's name what the front does.
        close: gives back what both hold.
    """

    def method(name: str) -> Callable[..., Any]:
        # Without the rest of what `wraps` copies, which says that the method is abstract.
        @functools.wraps(getattr(port, name), updated=())
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return around(name, args, kwargs)

        return call

    def beneath(name: str) -> Callable[..., Any]:
        return lambda self, *args: getattr(inner, name)(*args)

    def beyond(self: Any, name: str) -> Any:
        if inner is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(inner, name)

    members: dict[str, Any] = {name: method(name) for name in methods_of(port)}
    members |= {
        name: beneath(name) for name in KEEPING if inner is not None and hasattr(port, name)
    }
    members["__doc__"] = f"A {port.name} whose calls are those of another, {label.lower()}."
    members["__getattr__"] = beyond
    members["close"] = lambda self: close()
    members["concurrent"] = port.concurrent if inner is None else inner.concurrent
    kind = ABCMeta(f"{label}{port.__name__}", (port,), members)
    return kind()
