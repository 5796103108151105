"""`recording` and `replaying`: what an adapter said, written down, and said again without it."""

from __future__ import annotations

import builtins
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from crucible_kitchen import errors
from crucible_kitchen.adapters.disk import speaking_our_errors
from crucible_kitchen.errors import ConfigError, DataError, KernelError, PortError
from crucible_kitchen.ports import PORTS, Future, Port

from .codec import Codec
from .wrap import P, arguments_of, in_front_of, port_of

_VERSION: Final = 1
# What a port may raise; anything else is an error of the program, which no tape should repeat.
_KEPT: Final = (ConfigError, DataError, KernelError, PortError, IndexError, TypeError, ValueError)


def recording(adapter: P, path: str | os.PathLike[str]) -> P:
    """An adapter like `adapter` that writes every call and its outcome to a file.

    The file holds what was said, prompts and rows included; credentials are in no port's arguments.
    An iterator among the arguments is drawn whole before the call, and batches are drawn whole
    after it; other iterators are written down as far as they were drawn.

    Args:
        adapter: of any port.
        path: a new file, of one JSON object a line.
    Raises:
        PortError: there is such a file already, or it cannot be written.
    """
    port = port_of(adapter)
    recorder = _Recorder(adapter, port, Path(path))
    front: P = in_front_of(port, adapter, "Recording", recorder.call, recorder.close)
    return front


def replaying(path: str | os.PathLike[str]) -> Any:
    """An adapter that answers every call as the one that was recorded did.

    The same calls must come with the same arguments; those with equal ones in the recorded order.
    Values that only the recorded adapter could use, such as a data set's handle, are stood in for.

    Args:
        path: what `recording` wrote.
    Returns:
        An adapter of the recorded port.
    Raises:
        PortError: the file cannot be read, or a line of it is damaged.
    """
    player = _Player(Path(path))
    return in_front_of(player.port, None, "Replaying", player.call, lambda: None)


class _Recorder:
    def __init__(self, adapter: Port, port: type[Port], path: Path) -> None:
        self._adapter, self._port, self._path = adapter, port, path
        self._codec = Codec()
        self._lock = threading.RLock()
        self._count = 0
        with speaking_our_errors(port.name, f"record to {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x", encoding="utf-8")
        self._write({"port": port.name, "version": _VERSION})

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = tuple(list(a) if isinstance(a, Iterator) else a for a in args)
        kwargs = {k: list(a) if isinstance(a, Iterator) else a for k, a in kwargs.items()}
        with self._lock:
            line = {"n": self._count, "method": name}
            line["arguments"] = self._codec.encode(arguments_of(self._port, name, args, kwargs))
            self._count += 1
        try:
            result = getattr(self._adapter, name)(*args, **kwargs)
        except _KEPT as error:
            self._write({**line, "raised": _said(error)})
            raise
        return self._kept(line, result)

    def _kept(self, line: dict[str, Any], result: Any) -> Any:
        if isinstance(result, Future):
            result.add_done_callback(lambda future: self._settled(line, future))
            return result
        if hasattr(result, "state_dict"):
            batches = list(result)
            self._write({**line, "batches": self._encoded(batches)})
            return _Batches(batches)
        if isinstance(result, Iterator):
            return self._drawn(line, result)
        self._write({**line, "result": self._encoded(result)})
        return result

    def _settled(self, line: dict[str, Any], future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self._write({**line, "future": self._encoded(future.result())})
        elif isinstance(error, _KEPT):
            self._write({**line, "failed": _said(error)})

    def _drawn(self, line: dict[str, Any], items: Iterator[Any]) -> Iterator[Any]:
        drawn: list[Any] = []
        raised = None
        try:
            for item in items:
                drawn.append(self._encoded(item))
                yield item
        except _KEPT as error:
            raised = _said(error)
            raise
        finally:
            self._write({**line, "stream": drawn, "then": raised})

    def _encoded(self, value: Any) -> Any:
        with self._lock:
            return self._codec.encode(value)

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock, speaking_our_errors(self._port.name, f"record to {self._path}"):
            if not self._file.closed:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()

    def close(self) -> None:
        self._adapter.close()
        with self._lock, speaking_our_errors(self._port.name, f"record to {self._path}"):
            self._file.close()


class _Player:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._codec = Codec()
        self._lock = threading.Lock()
        with speaking_our_errors("replaying", f"read {path}"):
            lines = path.read_text(encoding="utf-8").splitlines()
        self.port = self._port(lines[0] if lines else "")
        self._outcomes: dict[str, deque[dict[str, Any]]] = {}
        said = [self._parsed(number, line) for number, line in enumerate(lines[1:], 2)]
        for line in sorted(said, key=lambda line: int(line["n"])):
            key = _key(line["method"], line["arguments"])
            self._outcomes.setdefault(key, deque()).append(line)

    def _port(self, line: str) -> type[Port]:
        head = self._parsed(1, line, ("port", "version"))
        if head["port"] not in PORTS or head["version"] != _VERSION:
            raise PortError(
                f"replaying: {self._path} must be a recording of version {_VERSION}, got {line}"
            )
        return PORTS[head["port"]]

    def _parsed(
        self, number: int, line: str, wanted: tuple[str, ...] = ("n", "method", "arguments")
    ) -> dict[str, Any]:
        try:
            fields = json.loads(line)
            absent = [key for key in wanted if key not in fields]
        except (ValueError, TypeError) as error:
            raise PortError(
                f"replaying: {self._path}, line {number} is damaged: {error}"
            ) from error
        if absent or not isinstance(fields, dict):
            raise PortError(f"replaying: {self._path}, line {number} is damaged: it lacks {absent}")
        return fields

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = tuple(list(a) if isinstance(a, Iterator) else a for a in args)
        kwargs = {k: list(a) if isinstance(a, Iterator) else a for k, a in kwargs.items()}
        with self._lock:
            arguments = self._codec.encode(arguments_of(self.port, name, args, kwargs))
            outcomes = self._outcomes.get(_key(name, arguments))
            if not outcomes:
                raise PortError(self._unheard(name, arguments, outcomes is not None))
            line = outcomes.popleft()
        try:
            return self._again(line)
        except (KeyError, AttributeError) as error:
            raise PortError(f"replaying: call {line['n']} is damaged: {error!r}") from error

    def _again(self, line: dict[str, Any]) -> Any:
        decode = self._codec.decode
        if "raised" in line:
            raise _error(line["raised"])
        if "failed" in line:
            return Future.failed(_error(line["failed"]))
        if "future" in line:
            return Future.resolved(decode(line["future"]))
        if "batches" in line:
            return _Batches(decode(line["batches"]))
        if "stream" in line:
            return _stream(line["stream"], line["then"], decode)
        return decode(line["result"])

    def _unheard(self, name: str, arguments: Any, used_up: bool) -> str:
        if used_up:
            return f"replaying: {self._path} has no further call of {name} with these arguments"
        recorded = [
            _differences(line["arguments"], arguments)
            for outcomes in self._outcomes.values()
            for line in outcomes
            if line["method"] == name
        ]
        nearest = ", ".join(sorted(recorded, key=len)[0]) if recorded else ""
        return f"replaying: {self._path} has no call of {name} with these arguments; " + (
            f"the nearest one left differs in {nearest}" if nearest else "none of it is left"
        )


class _Batches:
    """A `BatchIterator` over batches that were drawn already."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches
        self._position = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._position >= len(self._batches):
            raise StopIteration
        self._position += 1
        return self._batches[self._position - 1]

    def state_dict(self) -> dict[str, Any]:
        """How many batches were given."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind so many batches."""
        position = state.get("position")
        if not isinstance(position, int) or not 0 <= position <= len(self._batches):
            raise DataError(
                f"dataset_store: state must be of an iterator over {len(self._batches)} batches, "
                f"got {state}"
            )
        self._position = position


def _stream(items: list[Any], then: Any, decode: Callable[[Any], Any]) -> Iterator[Any]:
    yield from map(decode, items)
    if then is not None:
        raise _error(then)


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(k for k in {*one, *other} if (k in one, one.get(k)) != (k in other, other.get(k)))


def _key(method: str, arguments: Any) -> str:
    return json.dumps([method, arguments], sort_keys=True)


def _said(error: BaseException) -> list[str]:
    kind = next(kind for kind in _KEPT if isinstance(error, kind))
    return [kind.__name__, str(error)]


def _error(said: list[str]) -> Exception:
    name, message = said
    kind: type[Exception] = getattr(errors, name, None) or getattr(builtins, name)
    return kind(message)
