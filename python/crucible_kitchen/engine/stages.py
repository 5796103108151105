"""One closure for stages that follow each other in a body: the inner loop of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter, time

from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import StageNode

from .call import call_of, wrong_type
from .events import Event, new
from .follow import around
from .runtime import Runtime

Step = Callable[[], None]


def compile_stages(nodes: Iterable[StageNode], rt: Runtime, path: str) -> Step:
    """A closure that runs stages one after the other: gather, call, check, store, tell.

    It does all of that itself, as calls of others would cost more than what they do.

    Args:
        nodes: the stages.
        rt: shared by all closures of the run, or by those of one thread.
        path: of the body, without indices.
    """
    emit, state, values, strand = rt.emit, rt.state, rt.values, rt.strand
    stages = tuple(
        (node.name, *around(node, rt), *call_of(node, rt, f"{path}/{node.name}")) for node in nodes
    )

    epoch, until = 0.0, -1.0  # of the clock of durations, which is asked alone: both cost twice

    def run() -> None:
        nonlocal epoch, until
        prefix, began = rt.prefix, perf_counter()
        if began > until:  # the machine may have slept, or its time been set
            epoch, until = time() - began, began + 1.0
        for name, before, after, node, gather, function, key, classes, keep in stages:
            where = prefix + name
            if strand is not None:
                if strand.target is not None and strand.skips(where):
                    continue
                if before is not None:
                    before()
            if rt.cancelled:
                rt.check_cancelled()
            if emit is not None:
                began = perf_counter()
                emit(new(Event, ("stage.start", where, epoch + began, None, ())))
            try:
                try:
                    given = gather(values)
                except KeyError as error:
                    raise rt.missing(error.args[0]) from None
                result = function(*given)
                if key is None:
                    keep(state, values, result)
                elif isinstance(result, classes):
                    state[key] = values[key] = result
                else:
                    raise wrong_type(node.writes[0], result)
            except Exception as error:
                raise _failure(rt, where, node, error, perf_counter() - began) from error
            except BaseException as error:
                said = type(error).__name__
                rt.tell("stage.error", where, duration_s=perf_counter() - began, error=said)
                raise
            if emit is not None:
                ended = perf_counter()
                emit(new(Event, ("stage.stop", where, epoch + ended, ended - began, ())))
            if after is not None:
                after(where)

    return run


def _failure(
    rt: Runtime, where: str, node: StageNode, error: Exception, spent: float
) -> StageError:
    """The error of the run for that of a stage, which is told."""
    failure = rt.failure(where, node.source, error)
    rt.tell("stage.error", where, duration_s=spent, error=str(failure))
    return failure
