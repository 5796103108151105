"""`Race`: one run of a group of nodes, each on a fork, as many at once as may and pay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from queue import Empty, SimpleQueue
from time import perf_counter

from crucible_kitchen.graph import Node

from .crew import MOST_THREADS, Crew
from .journal import group_name
from .order import Order
from .runtime import Runtime
from .shared import Left
from .stages import Step

PATIENCE_S = 0.0001
"""How long one that was never measured may run until others begin beside it."""
_EXITS = (KeyboardInterrupt, SystemExit)

CompileNodes = Callable[[Sequence[Node], Runtime], tuple[Step, ...]]


class Forked:
    """A part of a group in a fork of its own, compiled by the thread that runs it first."""

    __slots__ = ("_compile", "_nodes", "_steps", "fork")

    def __init__(self, nodes: Sequence[Node], fork: Runtime, compile_nodes: CompileNodes) -> None:
        self._nodes, self.fork, self._compile = nodes, fork, compile_nodes
        self._steps: tuple[Step, ...] = ()

    def run(self) -> None:
        """Run its nodes; of one in a run that keeps a journal, what that says is left of it."""
        fork = self.fork
        if fork.strand is not None:
            (node,) = self._nodes
            fork.strand.begin(fork.prefix + node.name)
        if not self._steps:
            self._steps = self._compile(self._nodes, fork)
        for step in self._steps:
            step()
        if fork.strand is not None:
            fork.strand.end()

    def failure(self, error: Exception) -> BaseException:
        """The error of the run for one that is not raised while a stage runs."""
        first, last = self._nodes[0], self._nodes[-1]
        name = first.name if first is last else group_name(first.name, last.name)
        failure = self.fork.failure(self.fork.prefix + name, first.source, error)
        failure.__cause__ = error
        return failure


class Race:
    """One run of a group. The caller's thread works as well, and calls others as needed.

    Of what may begin, that comes first on which the most waits, as far as that is known, and else
    what stands first in the text.

    After a failure only what stands before it in the text still begins, and what stands behind it
    is interrupted where that is possible. So which error comes first in the text, and is the error
    of the run, does not depend on who was faster.

    Args:
        order: of the group; it is told how long each part took.
        rt: of the body.
    """

    def __init__(self, order: Order, rt: Runtime) -> None:
        self._order, self._rt = order, rt
        self._forked: Sequence[Forked] = ()
        self._prefix = rt.prefix
        self._most = rt.width or MOST_THREADS
        # What has never run may be short: others are called only when it is not.
        self._patient = None in order.seconds
        self._crew = Crew(self._help)
        self._workers = 1
        self._idle = 0
        self._calls: SimpleQueue[bool] = SimpleQueue()  # unlike a Condition, safe to interrupt
        self._lock = threading.Lock()  # held for all that follows
        self._urgency = order.urgency()
        self._missing = [needed.bit_count() for needed in order.waits]
        self._ready = [self._ranked(n) for n, count in enumerate(self._missing) if not count]
        heapify(self._ready)
        self._to_begin = len(order.waits)
        self._early = 0  # threads that are called before there is something to do
        self._done = 0  # bit set
        self._running = 0
        self._free = 0  # parts whose metrics are not held back any more
        self._left: dict[int, Left] = {}
        self._joined = 0  # parts whose outcome the body's runtime has
        self._cut = False  # whether it gets no more of them
        self._errors: dict[int, BaseException] = {}  # -1: what interrupted all of it

    def _ranked(self, number: int) -> tuple[float, int]:
        return -self._urgency[number], number

    def run(self, make: Callable[[], Sequence[Forked]]) -> None:
        """Run every part.

        Args:
            make: gives the parts; others are on their way meanwhile.
        Raises:
            StageError: the first one in the order of the text.
        """
        try:
            beside = 1 if self._patient else len(self._ready) - 1
            self._early = min(beside, self._most - 1)
            self._idle, self._workers = self._early, self._early + 1
            with self._lock:  # which keeps those waiting who come early
                if self._early:
                    self._crew.start(0)
                self._forked = make()
                for one in self._forked:
                    one.fork.cancel(self._rt.cancelled)
                    one.fork.held = []
            self._let_go(1)
            self._work()
            self._crew.wait()
        except BaseException as error:  # noqa: BLE001 - raised below, before all others
            self._interrupt(error)
            self._crew.close()
        if self._rt.strand is not None:
            for number in range(self._joined):
                self._take_over(number)
        if self._errors:
            raise self._errors[min(self._errors)]
        self._rt.prefix = self._prefix

    def _help(self, slot: int) -> None:
        """What another thread does."""
        if slot + 1 < self._early:
            self._crew.start(slot + 1)
        if slot == 0 and self._patient:
            try:
                self._calls.get(timeout=PATIENCE_S)
                early = True
            except Empty:
                early = False
            with self._lock:
                self._idle -= not early
                self._patient = False
        elif slot < self._early:
            self._calls.get()
        self._work()

    def _work(self) -> None:
        while True:
            with self._lock:
                number = self._next()
                slot = None
                if number is not None:
                    heappop(self._ready)
                    self._begin(number)
                    slot = self._call()
                elif self._running and self._to_begin:
                    self._idle += 1
                else:  # nothing will come any more, for those who wait neither
                    for _ in range(self._idle):
                        self._calls.put(True)
                    self._idle = 0
                    return
            if slot is not None:
                self._start(slot)
            if number is None:
                self._calls.get()
            else:
                self._run(number)

    def _start(self, slot: int) -> None:
        """Call another thread; not while the lock is held, which that one wants."""
        try:
            self._crew.start(slot)
        except BaseException as error:  # what was to run here will not
            with self._lock:
                self._running -= 1
            self._interrupt(error)
            raise

    def _next(self) -> int | None:
        """What begins next, if anything may."""
        first_error = min(self._errors, default=len(self._forked))
        while self._ready and self._ready[0][1] >= first_error:
            heappop(self._ready)
        return self._ready[0][1] if self._ready else None

    def _begin(self, number: int) -> None:
        self._to_begin -= 1
        self._running += 1
        fork = self._forked[number].fork
        fork.enter(self._prefix)
        for earlier in range(self._joined, number):
            if self._done >> earlier & 1:
                fork.values.update(self._left[earlier].state)

    def _call(self) -> int | None:
        """Have somebody take what may begin beside this; the number of a thread to start for it."""
        if self._patient or self._next() is None:
            return None
        if self._idle:
            self._idle -= 1
            self._calls.put(True)
            return None
        if self._workers == self._most:
            return None
        self._workers += 1
        return self._workers - 2

    def _run(self, number: int) -> None:
        one = self._forked[number]
        began = perf_counter()
        error: BaseException | None = None
        try:
            one.run()
        except BaseException as raised:  # noqa: BLE001 - raised by `run`
            error = raised
        with self._lock:
            self._order.seconds[number] = perf_counter() - began
            self._left[number] = one.fork.leave()
            self._running -= 1
            if error is None:
                self._finish(number)
            elif not isinstance(error, _EXITS):
                self._errors[number] = error
            self._join()
            free = self._joined + (not self._cut)
        self._let_go(free)
        if isinstance(error, _EXITS):
            self._interrupt(error)
        elif error is not None:
            for behind in self._forked[number + 1 :]:
                behind.fork.cancel(True)

    def _finish(self, number: int) -> None:
        self._done |= 1 << number
        for waiting in self._order.behind[number]:
            self._missing[waiting] -= 1
            if not self._missing[waiting]:
                heappush(self._ready, self._ranked(waiting))

    def _interrupt(self, error: BaseException) -> None:
        # `Thread.start` may cover up what interrupted it while it took back a lock.
        hidden = isinstance(error, RuntimeError) and error.__context__
        with self._lock:
            self._errors[-1] = hidden or error
            for _ in range(self._idle):  # what they wait for may never come
                self._calls.put(True)
            self._idle = 0
        for one in self._forked:
            one.fork.cancel(True)

    def _join(self) -> None:
        """Take over what is over, in the order of the text and up to the first failure."""
        while self._joined in self._left and not self._cut:
            number = self._joined
            if self._rt.strand is None:
                self._take_over(number)
            else:  # until all is over, the journal has it as the part's own
                self._rt.values.update(self._left[number].state)
            self._joined += 1
            # One after the other, those behind one that failed would not have run.
            self._cut = not self._done >> number & 1 or number in self._errors

    def _let_go(self, free: int) -> None:
        """Have the metrics store get what the first parts have recorded, in the order of the text.

        The first part that is not over has its turn now: one after the other, it would run.
        """
        with self._rt.locks.store:
            while self._free < min(free, len(self._forked)):
                one, number = self._forked[self._free], self._free
                self._free += 1
                try:
                    one.fork.let_go()
                except Exception as error:  # noqa: BLE001 - raised by `run`
                    with self._lock:
                        self._errors.setdefault(number, one.failure(error))

    def _take_over(self, number: int) -> None:
        left = self._left[number]
        self._rt.adopt(left)
        for key, value in left.state.items():
            self._rt.put(key, value)
