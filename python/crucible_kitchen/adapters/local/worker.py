"""One thread that does all computation of a client, in the order in which it was asked for."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import Future

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(eq=False)
class _Task:
    """Work that waits; see `Worker.submit_joint` for its parts."""

    work: Callable[[list[Any]], Sequence[Any]]
    item: Any = None
    kind: Hashable = None
    owner: object = None
    future: concurrent.futures.Future[Any] = field(default_factory=concurrent.futures.Future)


class Worker:
    """A queue with one thread; a call that fails leaves the calls after it alone.

    Args:
        port: whose worker it is, for the error of a closed one.
    """

    def __init__(self, port: str) -> None:
        self._port = port
        self._closed = False
        self._lock = threading.Lock()
        self._waiting: deque[_Task] = deque()
        self._executor = concurrent.futures.ThreadPoolExecutor(1, f"crucible-{port}")

    def submit(self, work: Callable[[], T], *, owner: object = None) -> Future[T]:
        """Put work at the end of the queue.

        Args:
            owner: whose work it is; it waits for all that is before it of the same owner.
                None: for all that is before it, as all after it waits for it.
        Raises:
            PortError: the client is closed.
        """
        return self._add(_Task(lambda _: [work()], owner=owner))

    def submit_joint(
        self,
        work: Callable[[list[Item]], Sequence[T]],
        item: Item,
        *,
        kind: Hashable,
        owner: object,
    ) -> Future[T]:
        """Put an item at the end of the queue that may be worked on with others of its kind.

        When its turn comes, `work` is called once for it and for each owner's first item of its
        kind that waits, unless other work of that owner is before it.

        Args:
            work: takes items of different owners, and gives the result of each. One that fails
                fails for all of them.
            kind: what items must have in common.
        Raises:
            PortError: the client is closed.
        """
        return self._add(_Task(work, item, kind, owner))

    def close(self) -> None:
        """Abandon what waits, finish what runs, and end the thread; again, it changes nothing."""
        self._closed = True
        with self._lock:
            abandoned = list(self._waiting)
            self._waiting.clear()
        for task in abandoned:
            task.future.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _add(self, task: _Task) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise PortError(f"{self._port}: the client must be open, it was closed")
            self._waiting.append(task)
            self._executor.submit(self._work)
        return Future.of(task.future)

    def _work(self) -> None:
        tasks = self._next()
        if not tasks:  # done already, with others
            return
        try:
            results = tasks[0].work([task.item for task in tasks])
        except BaseException as error:  # noqa: BLE001 - told to those who asked
            for task in tasks:
                task.future.set_exception(error)
        else:
            for task, result in zip(tasks, results, strict=True):
                task.future.set_result(result)

    def _next(self) -> list[_Task]:
        """Take the first task, and those that can be done with it."""
        with self._lock:
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            together, busy, rest = [first], {first.owner}, deque[_Task]()
            while self._waiting and first.kind is not None:
                task = self._waiting.popleft()
                if task.kind == first.kind and task.owner not in busy:
                    together.append(task)
                else:
                    rest.append(task)
                busy.add(task.owner)
                if task.owner is None:
                    break
            self._waiting = deque([*rest, *self._waiting])
        return [task for task in together if task.future.set_running_or_notify_cancel()]
