"""`FakePort`: an adapter for any port that remembers its calls and answers as a test wrote down."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from crucible_kitchen.errors import PortError, did_you_mean
from crucible_kitchen.ports import PORTS, Future, Port


class PortCall(NamedTuple):
    """One call of a port.

    Args:
        method: its name.
        arguments: by the names the port gives them, defaults included.
    """

    method: str
    arguments: dict[str, Any]


class InTurn:
    """Answers given one after the other: ``sample=InTurn(first, second, PortError("no"))``."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)


class FakePort(Port):
    """An adapter of any port for tests: it records every call, and answers what it was told to.

    An answer is a value; an exception, which is raised; a function, which is called with the
    arguments of the call; or `InTurn` of those. Where the port promises a `Future`, it is put into
    one. A method without an answer does what the port's own class does, and where that leaves it to
    the adapter, the call is a `PortError` that says what to write::

        client = FakePort(TrainingClient, optim_step=PortError("out of memory"))
        with pytest.raises(StageError, match="out of memory"):
            run_stage(optim_step, {"session": "s"}, {"training_client": client})
        assert client.called("optim_step")[0]["params"].learning_rate == 1e-4

    Args:
        port: its class, or its name.
        concurrent: whether stages may use it at the same time; as the port says where left out.
        **answers: method -> answer.
    Raises:
        TypeError: it is no port, or has no such method.
    """

    calls: list[PortCall]
    """Every call, in order."""

    def __new__(
        cls, port: type[Port] | str, *, concurrent: bool | None = None, **answers: Any
    ) -> FakePort:
        kind = PORTS.get(port) if isinstance(port, str) else port
        if not (inspect.isclass(kind) and issubclass(kind, Port)):
            raise TypeError(
                f"FakePort: port must be a port, got {port!r}; known: {', '.join(PORTS)}"
            )
        methods = _methods(kind)
        for name in answers:
            if name not in methods:
                near = did_you_mean(name, methods)
                raise TypeError(f"FakePort: {kind.__name__} has no method {name!r}; {near}")
        members: dict[str, Any] = {
            name: _recording(name, method, kind) for name, method in methods.items()
        }
        if concurrent is not None:
            members["concurrent"] = concurrent
        fake: FakePort = object.__new__(type(f"Fake{kind.__name__}", (cls, kind), members))
        return fake

    def __init__(
        self, port: type[Port] | str, *, concurrent: bool | None = None, **answers: Any
    ) -> None:
        self.calls = []
        self._answers = answers

    def called(self, method: str) -> list[dict[str, Any]]:
        """The arguments of every call of a method, in order."""
        return [call.arguments for call in self.calls if call.method == method]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.calls)} call(s)>"


def _methods(port: type[Port]) -> dict[str, Callable[..., Any]]:
    """What a port can be asked for."""
    return {
        name: member
        for name, member in inspect.getmembers(port, inspect.isfunction)
        if not name.startswith("_")
    }


def _recording(name: str, method: Callable[..., Any], port: type[Port]) -> Callable[..., Any]:
    signature = inspect.signature(method)
    promised = str(signature.return_annotation).startswith("Future")
    abstract = name in port.__abstractmethods__

    def call(self: FakePort, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        self.calls.append(PortCall(name, arguments))
        if name not in self._answers:
            if not abstract:
                return method(self, *args, **kwargs)
            raise PortError(
                f"{port.name}: {name} was called and has no answer; "
                f"write FakePort({port.__name__}, {name}=...)"
            )
        answer = self._answers[name]
        if isinstance(answer, InTurn):
            if not answer.answers:
                raise PortError(f"{port.name}: {name} was called once more than it has answers")
            answer = answer.answers.pop(0)
        return _given(answer, args, kwargs, promised)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = method.__doc__
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def _given(answer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], promised: bool) -> Any:
    if inspect.isroutine(answer):
        answer = answer(*args, **kwargs)
    if isinstance(answer, BaseException):
        if promised:
            return Future.failed(answer)
        raise answer
    return Future.resolved(answer) if promised and not isinstance(answer, Future) else answer
