"""Neighbours that do not depend on each other run at the same time, where that pays.

Whatever runs beside something else runs on a fork, and forks are joined in the order of the text.
So the state, the metrics and the error of a run are those of one stage after the other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from time import perf_counter

from crucible_kitchen.graph import Node
from crucible_kitchen.graph.overlap import Group, groups

from .crew import Crew
from .runtime import Left, Runtime
from .stages import Step

LONG_S = 0.0005
"""What is shorter is not worth a thread."""
_MOST_THREADS = 32
_EXITS = (KeyboardInterrupt, SystemExit)

CompileNode = Callable[[Node, Runtime], Step]


def overlapped(
    nodes: Sequence[Node], steps: tuple[Step, ...], rt: Runtime, compile_node: CompileNode
) -> tuple[Step, ...]:
    """The steps of a body, with each group of nodes that may overlap as one step.

    Args:
        nodes: of the body.
        steps: their closures, in `rt`.
        rt: of the body.
        compile_node: gives the closure of a node in a fork of `rt`.
    """
    if rt.width == 1:
        return steps
    joined = list(steps)
    for group in reversed(groups(nodes, rt.ports)):
        part = slice(group.start, group.start + len(group.waits))
        together = _Together(nodes[part], steps[part], group, rt, compile_node)
        joined[part] = [together.run]
    return tuple(joined)


class _Together:
    """A group of nodes: one after the other while they are short, else at once.

    Args:
        nodes: of the group.
        steps: their closures, for one after the other.
        group: what waits for what.
        rt: of the body.
        compile_node: gives the closure of a node in a fork.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        steps: tuple[Step, ...],
        group: Group,
        rt: Runtime,
        compile_node: CompileNode,
    ) -> None:
        self._nodes, self._steps, self._rt = nodes, steps, rt
        self._compile_node = compile_node
        self._free = _free_pairs(group.waits)
        self.waits = group.waits
        self.spent: list[float | None] = [None] * len(nodes)  # seconds, when it last ran
        self._expected = -1.0  # of all, one after the other; negative where they run at once
        self._forks: list[tuple[Runtime, Step]] = []

    def run(self) -> None:
        if self._expected < 0:
            if not self._forks:
                forks = [self._rt.fork() for _ in self._nodes]
                steps = map(self._compile_node, self._nodes, forks)
                self._forks = list(zip(forks, steps, strict=True))
            _Race(self, self._rt, self._forks).run()
            if not self._pays():
                self._expected = sum(seconds or 0.0 for seconds in self.spent)
            return
        began = perf_counter()
        for step in self._steps:
            step()
        if perf_counter() - began > 2 * self._expected + LONG_S:  # not as short as it was
            self.spent = [None] * len(self.spent)
            self._expected = -1.0

    def _pays(self) -> bool:
        """Whether two that are free of each other both take long, or have not been measured."""
        long = [seconds is None or seconds >= LONG_S for seconds in self.spent]
        return any(long[one] and long[other] for one, other in self._free)


def _free_pairs(waits: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of places of which neither comes before the other."""
    before: list[int] = []
    for direct in waits:
        everything = direct
        for other in range(len(before)):
            if direct >> other & 1:
                everything |= before[other]
        before.append(everything)
    return [(i, j) for j, known in enumerate(before) for i in range(j) if not known >> i & 1]


class _Race:
    """One run of a group. The caller's thread works as well, and calls others as needed.

    After a failure only what stands before it in the text still begins, and what stands behind it
    is interrupted where that is possible. So which error comes first in the text, and is the error
    of the run, does not depend on who was faster.

    Args:
        group: what runs; it is told how long each node took.
        rt: of the body.
        forks: one a node, with its closure.
    """

    def __init__(
        self, group: _Together, rt: Runtime, forks: Sequence[tuple[Runtime, Step]]
    ) -> None:
        self._group, self._rt, self._forks = group, rt, forks
        self._prefix = rt.prefix
        self._most = rt.width or min(_MOST_THREADS, (os.cpu_count() or 1) + 4)
        # What has never run may be short: others are called only when it is not.
        self._patient = None in group.spent
        self._crew = Crew(self._help)
        self._workers = 1
        self._idle = 0
        self._calls: SimpleQueue[bool] = SimpleQueue()  # unlike a Condition, safe to interrupt
        self._lock = threading.Lock()  # held for all that follows
        self._begun = self._done = 0  # bit sets
        self._running = 0
        self._left: dict[int, Left] = {}
        self._joined = 0  # nodes whose outcome the body's runtime has
        self._cut = False  # whether it gets no more of them
        self._errors: dict[int, BaseException] = {}  # -1: what interrupted all of it

    def run(self) -> None:
        """Run every node.

        Raises:
            StageError: the first one in the order of the text.
        """
        for fork, _ in self._forks:
            fork.cancel(self._rt.cancelled)
        try:
            if self._patient:
                self._idle = 1  # the one that is on its way
                self._start()
            self._work()
            self._crew.wait()
        except BaseException as error:  # noqa: BLE001 - raised below, before all others
            self._interrupt(error)
            self._crew.close()
        if self._errors:
            raise self._errors[min(self._errors)]
        self._rt.prefix = self._prefix

    def _help(self, slot: int) -> None:
        """What another thread does."""
        if slot == 0 and self._patient:
            try:
                self._calls.get(timeout=LONG_S)
                early = True
            except Empty:
                early = False
            with self._lock:
                self._idle -= not early
                self._patient = False
        self._work()

    def _work(self) -> None:
        while True:
            with self._lock:
                number = self._next()
                if number is not None:
                    self._begin(number)
                    self._call()
                elif self._running:
                    self._idle += 1
                else:
                    for _ in range(self._idle):  # all is over: they need not wait
                        self._calls.put(True)
                    self._idle = 0
                    return
            if number is None:
                self._calls.get()
            else:
                self._run(number)

    def _next(self) -> int | None:
        """The first node in the text that may begin now."""
        waits = self._group.waits[: max(0, min(self._errors, default=len(self._forks)))]
        for number, needed in enumerate(waits):
            if not self._begun >> number & 1 and not needed & ~self._done:
                return number
        return None

    def _begin(self, number: int) -> None:
        self._begun |= 1 << number
        self._running += 1
        fork = self._forks[number][0]
        fork.enter(self._prefix)
        for earlier in range(self._joined, number):
            if self._done >> earlier & 1:
                fork.values.update(self._left[earlier].state)

    def _call(self) -> None:
        """Have somebody take what may begin beside this, if there is something."""
        if self._patient or self._next() is None:
            return
        if self._idle:
            self._idle -= 1
            self._calls.put(True)
        elif self._workers < self._most:
            self._start()

    def _start(self) -> None:
        self._workers += 1
        self._crew.start(self._workers - 2)

    def _run(self, number: int) -> None:
        fork, step = self._forks[number]
        began = perf_counter()
        error: BaseException | None = None
        try:
            step()
        except BaseException as raised:  # noqa: BLE001 - raised by `run`
            error = raised
        with self._lock:
            self._group.spent[number] = perf_counter() - began
            self._left[number] = fork.leave()
            self._running -= 1
            if error is None:
                self._done |= 1 << number
            elif not isinstance(error, _EXITS):
                self._errors[number] = error
            self._join()
        if isinstance(error, _EXITS):
            self._interrupt(error)
        elif error is not None:
            for behind, _ in self._forks[number + 1 :]:
                behind.cancel(True)

    def _interrupt(self, error: BaseException) -> None:
        # `Thread.start` may cover up what interrupted it while it took back a lock.
        hidden = isinstance(error, RuntimeError) and error.__context__
        with self._lock:
            self._errors[-1] = hidden or error
        for fork, _ in self._forks:
            fork.cancel(True)

    def _join(self) -> None:
        """Take over what is over, in the order of the text and up to the first failure."""
        while self._joined in self._left and not self._cut:
            number = self._joined
            left = self._left[number]
            self._rt.adopt(left)
            for key, value in left.state.items():
                self._rt.put(key, value)
            self._joined += 1
            # One after the other, those behind one that failed would not have run.
            self._cut = not self._done >> number & 1
