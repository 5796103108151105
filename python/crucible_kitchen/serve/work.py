"""The one thread that computes, the order of a model's requests, and results to be taken."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from crucible_kitchen import ports

from .state import NotFound, Refused

_KEPT: Final = 20_000
# Of binary results that were sent: a client whose connection broke asks for one again at once.
_KEPT_BYTES: Final = 64 << 20


class Busy(Refused):
    """More requests wait than the server takes."""


@dataclass(frozen=True)
class Promise:
    """A result on its way.

    Args:
        id: what the client asks for it by.
        future: of a dict, which is answered as JSON, or of bytes, a binary message.
        key: of the request, where it may come twice.
    """

    id: str
    future: Future[Any]
    key: tuple[Any, ...] | None


class Later(NamedTuple):
    """What work gives whose value another thread still computes; meanwhile the next work begins.

    Args:
        future: of the value.
        read: makes the result of it.
    """

    future: ports.Future[Any]
    read: Callable[[Any], Any]


class Work:
    """Runs what models are asked, one after another.

    Args:
        most: requests that may wait.
        kept_bytes: most of binary results that were sent and are kept to be sent again.
    """

    def __init__(self, most: int, *, kept_bytes: int = _KEPT_BYTES) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="crucible-serve")
        self._most, self._waiting, self._handed = most, 0, 0
        self._lock = threading.Lock()
        # Random bytes for each would have the system asked, and the interpreter handed over.
        self._start_id, self._ids = secrets.token_hex(8), itertools.count()
        self._promises: OrderedDict[str, Promise] = OrderedDict()
        self._again: dict[tuple[Any, ...], Promise] = {}
        self._lines: dict[str, _Line] = {}
        # Id of a binary result that was sent -> its size.
        self._sent: OrderedDict[str, int] = OrderedDict()
        self._sent_bytes, self._kept_bytes = 0, kept_bytes

    def do(self, key: tuple[Any, ...] | None, work: Callable[[], Any]) -> Promise:
        """Run `work` after all that was asked before.

        Args:
            key: of a request that a client may send twice; the second time gives the first's
                promise.
        Raises:
            Busy: too many wait.
        """
        with self._lock:
            promise, new = self._promise(key)
        if new:
            self._start(promise, work)
        return promise

    def do_in_order(
        self, model_id: str, number: int, work: Callable[[], Any], *, quick: bool = False
    ) -> Promise:
        """Run `work` when all of the model's requests with a smaller number have been asked for.

        Args:
            quick: it takes no longer than to wake another thread, so that it runs at once, on the
                caller's, where nothing is before it.
        Raises:
            Busy: too many wait.
            Refused: the number's turn is over, and its result is not kept any more.
        """
        with self._lock:
            line = self._lines.setdefault(model_id, _Line())
            if number < line.next and (model_id, number) not in self._again:
                raise Refused(f"seq_id must be {line.next} or more, got {number}, which is over")
            promise, new = self._promise((model_id, number))
            if new:
                line.waiting[number] = (promise, work, quick)
            ready = line.ready()
        for task in ready:
            self._start(*task)
        return promise

    def get(self, request_id: str) -> Promise:
        """Raises: NotFound, for a request that this server, or this start of it, did not get."""
        promise = self._promises.get(request_id)
        if promise is None:
            raise NotFound(f"no request {request_id!r}; the server may have been started anew")
        return promise

    def sent(self, promise: Promise, size: int) -> None:
        """Note that a binary result was sent; where such take too much memory, the oldest go.

        One that nobody has taken yet stays.
        """
        with self._lock:
            if promise.id in self._sent or promise.id not in self._promises:
                return
            self._sent[promise.id] = size
            self._sent_bytes += size
            while self._sent_bytes > self._kept_bytes and len(self._sent) > 1:
                self._drop(next(iter(self._sent)))

    @property
    def waiting(self) -> int:
        """How many requests wait or are being worked on."""
        return self._waiting

    def forget(self, model_id: str) -> None:
        """Drop what waits for a model that is gone."""
        with self._lock:
            line = self._lines.pop(model_id, _Line())
        for promise, *_ in line.waiting.values():
            self._end()
            promise.future.set_exception(NotFound(f"no model {model_id!r} is open"))

    def close(self) -> None:
        """Finish what runs, and give up what waits."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _promise(self, key: tuple[Any, ...] | None) -> tuple[Promise, bool]:
        if key is not None and key in self._again:
            return self._again[key], False
        if self._waiting >= self._most:
            raise Busy(f"{self._most} requests wait already")
        promise = Promise(f"{self._start_id}-{next(self._ids)}", Future(), key)
        self._waiting += 1
        self._promises[promise.id] = promise
        if key is not None:
            self._again[key] = promise
        while len(self._promises) > max(_KEPT, self._most):
            done = (one.id for one in self._promises.values() if one.future.done())
            if (oldest := next(done, None)) is None:
                break
            self._drop(oldest)
        return promise, True

    def _drop(self, request_id: str) -> None:
        old = self._promises.pop(request_id)
        self._sent_bytes -= self._sent.pop(request_id, 0)
        if old.key is not None:
            self._again.pop(old.key, None)

    def _start(self, promise: Promise, work: Callable[[], Any], quick: bool = False) -> None:
        if quick and not self._handed:
            self._settle(promise, work)
            return

        def run() -> None:
            self._settle(promise, work)
            with self._lock:
                self._handed -= 1

        with self._lock:
            self._handed += 1
        self._thread.submit(run)

    def _settle(self, promise: Promise, work: Callable[[], Any]) -> None:
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - answered to the one who asked
            self._end()
            promise.future.set_exception(error)
            return
        if isinstance(value, Later):
            later = value
            later.future.add_done_callback(
                lambda done: self._settle(promise, lambda: later.read(done.result()))
            )
            return
        self._end()
        promise.future.set_result(value)

    def _end(self) -> None:
        with self._lock:
            self._waiting -= 1


_Task = tuple[Promise, Callable[[], Any], bool]
"""A promise, what keeps it, and whether that is quick."""


class _Line:
    """Requests of one model: numbers come in any order, work begins in theirs.

    Numbers begin with 1, the model's own creation being 0.
    """

    def __init__(self) -> None:
        self.next = 1
        self.waiting: dict[int, _Task] = {}

    def ready(self) -> list[_Task]:
        """Take those whose turn it is."""
        ready = []
        while self.next in self.waiting:
            ready.append(self.waiting.pop(self.next))
            self.next += 1
        return ready
