"""Closures of the blocks that run in their caller's thread: `when`, `switch`, `loop`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import count
from time import perf_counter, time
from typing import Any

from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import Loop, Node, Switch, When
from crucible_kitchen.graph.values import Value

from .events import Event, new
from .runtime import BorderError, Runtime
from .sources import Watched
from .stages import Step
from .values import compile_value

CompileBody = Callable[[Iterable[Node], Runtime, str], tuple[Step, ...]]


def compile_when(node: When, rt: Runtime, path: str, compile_body: CompileBody) -> Step:
    """A closure that asks the predicate and runs one of two bodies."""
    ask = compile_value(node.predicate, rt, path)
    strand = rt.strand
    yes = compile_body(node.body, rt, path)
    no = compile_body(node.otherwise_body or (), rt, f"{path}/otherwise")
    name, source = node.name, node.predicate.source or node.source

    def step() -> None:
        outer = rt.prefix
        try:
            if strand is not None and strand.target is not None:
                holds = strand.way(outer + name) != "otherwise"
            else:
                holds = bool(ask())
        except Exception as error:
            raise rt.failure(outer + name, source, error) from error
        rt.prefix = f"{outer}{name}/" if holds else f"{outer}{name}/otherwise/"
        for inner in yes if holds else no:
            inner()
        rt.prefix = outer

    return step


def compile_switch(node: Switch, rt: Runtime, path: str, compile_body: CompileBody) -> Step:
    """A closure that asks for the value and runs the body of its case."""
    ask = compile_value(node.on, rt, path)
    name, source, strand = node.name, node.on.source or node.source, rt.strand
    bodies: dict[Any, tuple[str, tuple[Step, ...]]] = {}
    for case in node.cases:
        branch = f"{name}/{case.name}/", compile_body(case.body, rt, f"{path}/{case.name}")
        bodies.update(dict.fromkeys(case.matches, branch))
    branches = {below: (below, body) for below, body in bodies.values()}
    other: tuple[str, tuple[Step, ...]] | None = None
    if node.otherwise_body is not None:
        steps = compile_body(node.otherwise_body, rt, f"{path}/otherwise")
        other = f"{name}/otherwise/", steps

    def choose() -> tuple[str, tuple[Step, ...]]:
        if strand is not None and strand.target is not None:
            below = f"{name}/{strand.way(rt.prefix + name)}/"
            return branches.get(below) or other or (below, ())
        value = ask()
        branch = bodies.get(value, other)
        if branch is None:
            known = ", ".join(map(repr, bodies))
            raise BorderError(f"has no case for {value!r}, only for {known}; add .otherwise[...]")
        return branch

    def step() -> None:
        outer = rt.prefix
        try:
            below, body = choose()
        except Exception as error:
            raise rt.failure(outer + name, source, error) from error
        rt.prefix = outer + below
        for inner in body:
            inner()
        rt.prefix = outer

    return step


def compile_loop(node: Loop, rt: Runtime, path: str, compile_body: CompileBody) -> Step:
    """A closure that runs the body once for each item, or while the predicate holds."""
    items = _items(node, rt, path)
    iterate = iteration(node, rt, compile_body(node.body, rt, path))

    def work(where: str) -> None:
        every = items()
        iterate(every, count_of(every))

    return told("loop", node, rt, work)


def iteration(
    node: Loop, rt: Runtime, body: tuple[Step, ...]
) -> Callable[[Iterable[Any], int | None], None]:
    """A function that runs the body once for each item; it is told how many there will be."""
    name = node.name
    item_key, index_key = node.variables
    state, values, strand, emit = rt.state, rt.values, rt.strand, rt.emit
    numbered = enumerate if strand is None else strand.loops.numbered

    def iterate(every: Iterable[Any], total: int | None) -> None:
        outer = rt.prefix
        rt.tell("block.start", outer + name, block="loop", total=total)
        try:
            for index, item in numbered(every):
                if rt.cancelled:
                    rt.check_cancelled()
                here = f"{outer}{name}[{index}]"
                rt.prefix = here + "/"
                state[item_key] = values[item_key] = item
                state[index_key] = values[index_key] = index
                if strand is not None and strand.target is not None:
                    rt.tell("iteration.start", here, iteration=index, total=total)
                elif emit is not None:  # the same, without names, which cost more than all this
                    more = ("iteration", index), ("total", total)
                    emit(new(Event, ("iteration.start", here, time(), None, more)))
                for step in body:
                    step()
                rt.prefix = outer
        finally:
            rt.drop(item_key, index_key)

    return iterate


def told(kind: str, node: Node, rt: Runtime, work: Callable[[str], None]) -> Step:
    """A closure that tells how a block ended, and gives errors of its own the block's id.

    Args:
        kind: of the block, for the events.
        node: the block.
        rt: of the thread it runs in.
        work: runs it; given its id, it tells that it has begun.
    """
    name, source = node.name, node.source

    def failed(where: str, began: float, error: BaseException) -> None:
        said = str(error) or type(error).__name__
        rt.tell("block.error", where, block=kind, duration_s=perf_counter() - began, error=said)

    def step() -> None:
        where = rt.prefix + name
        began = perf_counter()
        try:
            work(where)
        except StageError as error:
            failed(where, began, error)
            raise
        except Exception as error:
            # The stages have turned theirs into StageErrors, so this is the block's own.
            failure = rt.failure(where, source, error)
            failed(where, began, failure)
            raise failure from error
        except BaseException as error:
            failed(where, began, error)
            raise
        rt.tell("block.stop", where, block=kind, duration_s=perf_counter() - began)

    return step


def _items(node: Loop, rt: Runtime, path: str) -> Callable[[], Any]:
    """What a loop goes through; for ``while_`` alone the numbers of its iterations."""
    source = None if node.over is None else compile_source(node.name, node.over, rt, rt, path)
    holds = None if node.while_ is None else compile_value(node.while_, rt, path)
    most, strand = node.max_iterations, rt.strand
    if source is not None and holds is None and most is None:
        return source
    if strand is None:
        return lambda: Bounded(count() if source is None else source(), holds, most)
    given = source or strand.loops.sources(node.name, "same", (), count, rt)
    held = None if holds is None else strand.loops.holds(holds)

    def bounded() -> Bounded:
        every = given()
        return Bounded(every, held, most, taken=strand.loops[-1].ahead)

    return bounded


class Bounded:
    """Items of a source, as long as a predicate holds; it is asked before each of them.

    Args:
        source: what is iterated.
        holds: the predicate; None: it always does.
        most: how many items there are at most; None for no bound.
        taken: how many of those were taken before the run was stopped and taken up again.
    """

    def __init__(
        self,
        source: Iterable[Any],
        holds: Callable[[], Any] | None,
        most: int | None,
        taken: int = 0,
    ) -> None:
        self._source, self._holds, self._most, self._taken = source, holds, most, taken

    @property
    def total(self) -> int | None:
        """How many items there will be, if the predicate holds all along; None if nobody knows."""
        bounds = [n for n in (count_of(self._source), self._most) if n is not None]
        return min(bounds, default=None)

    def __iter__(self) -> Iterator[Any]:
        items = iter(self._source)
        taken = self._taken
        while (self._most is None or taken < self._most) and (self._holds is None or self._holds()):
            try:
                item = next(items)
            except StopIteration:
                return
            taken += 1
            yield item


def count_of(items: Iterable[Any]) -> int | None:
    if isinstance(items, (Bounded, Watched)):
        return items.total
    return len(items) if isinstance(items, Sized) else None


def compile_source(
    name: str, over: Value, rt: Runtime, reader: Runtime, path: str, *, watch: bool = True
) -> Callable[[], Any]:
    """A closure that gives what a block goes through.

    Args:
        name: of the block.
        over: what it is asked for.
        rt: of the block.
        reader: that it is read in.
        path: of the block, without indices.
        watch: whether a source that can say where it stands is asked.
    """
    give = compile_value(over, reader, path)
    if rt.strand is None:
        return give
    reads = [read.key for read in over.reads if read.key not in rt.config]
    kind = "same" if over.kind == "literal" else "call"
    return rt.strand.loops.sources(name, kind, reads, give, reader, watch=watch)
