"""Closures of the blocks with a state of their own inside: `parallel`, `fan_out`, `scope`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from crucible_kitchen.graph import FanOut, Parallel, Scope

from .blocks import CompileBody, compile_source, told
from .crew import MOST_THREADS, Crew
from .runtime import BorderError, Runtime
from .shared import Left
from .stages import Step


def at_once(
    count: int, width: int, work: Callable[[int, int], None], cancel: Callable[[int], None]
) -> dict[int, BaseException]:
    """Run pieces of work on threads, begun in their order; errors by the number of the piece.

    After a failure nothing more begins, what stands behind it is cancelled, and all that runs is
    waited for. Pieces before a failed one have all begun and are not cancelled, so which failed
    first in their order does not depend on how many run at once. The number of an error that
    interrupted the waiting is -1.

    Args:
        count: of pieces.
        width: how many run at once.
        work: called with the number of the thread and of the piece.
        cancel: has the running pieces behind a number end soon.
    """
    errors: dict[int, BaseException] = {}
    numbers = iter(range(count))
    lock = threading.Lock()

    def serve(slot: int) -> None:
        while True:
            with lock:
                number = None if errors else next(numbers, None)
            if number is None:
                return
            try:
                work(slot, number)
            except BaseException as error:  # noqa: BLE001 - the caller's to raise
                with lock:
                    errors[number] = error
                cancel(number)

    if min(count, width) <= 1:
        serve(0)
    else:
        crew = Crew(serve)
        try:
            for slot in range(min(count, width)):
                crew.start(slot)
            crew.wait()
        except BaseException as error:  # noqa: BLE001 - the caller's to raise
            # `Thread.start` may cover up what interrupted it while it took back a lock.
            hidden = isinstance(error, RuntimeError) and error.__context__
            errors[-1] = hidden or error  # before all others, and it keeps the rest from beginning
            cancel(-1)
            crew.close()
    return errors


def compile_parallel(node: Parallel, rt: Runtime, path: str, compile_body: CompileBody) -> Step:
    """A closure that runs every member on a thread of its own, each from the same state."""
    forks = [rt.fork() for _ in node.body]
    bodies = [
        compile_body((member,), fork, path) for member, fork in zip(node.body, forks, strict=True)
    ]
    width = min(node.max_concurrency or len(forks), rt.width or len(forks))

    def work(where: str) -> None:
        rt.tell("block.start", where, block="parallel", total=len(forks))
        if rt.strand is not None:
            rt.strand.enter(where)
        left: dict[int, Left] = {}

        def member(slot: int, number: int) -> None:
            fork = forks[number]
            fork.enter(f"{where}/")
            if fork.strand is not None:
                fork.strand.begin(f"{where}/{node.body[number].name}")
            try:
                for step in bodies[number]:
                    step()
                if fork.strand is not None:
                    fork.strand.end()
            finally:
                left[number] = fork.leave()

        errors = at_once(len(forks), width, member, lambda last: _cancel(forks[last + 1 :]))
        for number in sorted(left):
            rt.adopt(left[number])
            for key, value in left[number].state.items():
                rt.put(key, value)
            if number in errors:
                break  # one after the other, those behind it would not have run
        if errors:
            raise errors[min(errors)]
        if rt.strand is not None:
            rt.strand.leave(where)

    return told("parallel", node, rt, work)


def compile_fan_out(node: FanOut, rt: Runtime, path: str, compile_body: CompileBody) -> Step:
    """A closure that runs a copy of the body for each item, each from the same state."""
    items = compile_source(node.name, node.over, rt, rt, path, watch=False)
    most = node.max_concurrency or MOST_THREADS
    most = min(most, rt.width or most)
    copies: list[tuple[Runtime, tuple[Step, ...]]] = []  # one a thread, made when first needed
    item_key, index_key = node.variables

    def work(where: str) -> None:
        every = list(items())
        total = len(every)
        rt.tell("block.start", where, block="fan_out", total=total)
        if rt.strand is not None:
            rt.strand.enter(where)
        while len(copies) < min(most, total):
            fork = rt.fork()
            copies.append((fork, compile_body(node.body, fork, path)))
        left: dict[int, Left] = {}
        running: dict[int, int] = {}  # who is at which copy

        def copy(slot: int, number: int) -> None:
            fork, body = copies[slot]
            running[slot] = number
            here = f"{where}[{number}]"
            fork.enter(f"{here}/")
            fork.put(item_key, every[number])
            fork.put(index_key, number)
            if fork.strand is not None:
                fork.strand.begin(here)
            fork.tell("iteration.start", here, iteration=number, total=total)
            try:
                for step in body:
                    step()
                if fork.strand is not None:
                    fork.strand.end()
            finally:
                left[number] = fork.leave()

        def cancel_behind(last: int) -> None:
            _cancel([copies[slot][0] for slot, number in list(running.items()) if number > last])

        errors = at_once(total, most, copy, cancel_behind)
        for number in sorted(left):
            rt.adopt(left[number])
            if number in errors:
                break
        if errors:
            raise errors[min(errors)]
        for key, target in node.collect:
            rt.put(target, [_collected(left[number].state, key, number) for number in range(total)])
        if rt.strand is not None:
            rt.strand.leave(where)

    return told("fan_out", node, rt, work)


def _collected(state: dict[str, Any], key: str, number: int) -> Any:
    if key not in state:
        raise BorderError(f"collects {key!r}, which copy {number} did not write")
    return state[key]


def compile_scope(node: Scope, rt: Runtime, path: str, compile_body: CompileBody) -> Step:
    """A closure that runs the body with names of its own."""
    fork = rt.fork()
    fork.hides = node.hides
    body = compile_body(node.body, fork, path)
    prefix = node.prefix

    def work(where: str) -> None:
        rt.tell("block.start", where, block="scope")
        if rt.strand is not None:
            rt.strand.enter(where)
        fork.enter(f"{where}/")
        # The values, not the state: they also hold what neighbours that overlap have written.
        for key, value in list(rt.values.items()):
            if isinstance(key, str) and key.startswith(prefix):  # written when it ran before
                fork.put(key[len(prefix) :], value)
        if fork.strand is not None:
            fork.strand.begin(where)
        try:
            for step in body:
                step()
            if fork.strand is not None:
                fork.strand.end()
        finally:
            left = fork.leave()
            rt.adopt(left)
            for key, value in left.state.items():
                rt.put(prefix + key, value)
        if rt.strand is not None:
            rt.strand.leave(where)

    return told("scope", node, rt, work)


def _cancel(forks: list[Runtime]) -> None:
    for fork in forks:
        fork.cancel(True)
