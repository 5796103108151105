"""A workflow's body, ``on_error`` where it failed, and ``finally``, in a runtime that is ready."""

from __future__ import annotations

import time
import warnings

from crucible_kitchen.context import Context
from crucible_kitchen.errors import CrucibleError, StageError
from crucible_kitchen.graph import Node, Workflow
from crucible_kitchen.graph.blocks import ERROR_KEYS

from .compile import compile_body, compile_each
from .redact import hide
from .runtime import Runtime
from .stages import Step


def last_context(runtime: Runtime) -> Context:
    """What a run has come to."""
    return runtime.base.replace(
        _state=dict(runtime.state), _log=runtime.metrics.log, _recorder=None
    )


def execute(workflow: Workflow, rt: Runtime, began: float) -> None:
    """The body, ``on_error`` where it failed, ``finally``; the first error is the one raised."""
    name = workflow.name
    body = compile_body(workflow.body, rt, name)
    strand, rt.strand = rt.strand, None  # what cleans up is never skipped
    failed = _each_alone(workflow.on_error_body, rt, f"{name}/on_error")
    final = _each_alone(workflow.finally_body, rt, f"{name}/finally")
    first: BaseException | None = None
    try:
        rt.strand = strand
        if strand is not None:
            strand.begin("")
        rt.tell("run.start", name, name=name, metadata=hide(rt.base.metadata))
        rt.prefix = f"{name}/"
        for step in body:
            step()
        if strand is not None:
            strand.check_arrived()
    except BaseException as error:  # noqa: BLE001 - raised below, after the clean-up
        first = error
    rt.strand = None
    if first is not None and failed:
        stage = first.stage if isinstance(first, StageError) else name
        for key, value in zip(ERROR_KEYS, (first, stage), strict=True):
            rt.put(key, value)
        first = _clean_up(failed, rt, f"{name}/on_error", first)
        rt.drop(*ERROR_KEYS)
    if final:
        first = _clean_up(final, rt, f"{name}/finally", first)
    first = _flush(rt, first)
    spent = time.perf_counter() - began
    if first is not None:
        said = str(first) or type(first).__name__
        rt.tell("run.error", name, name=name, duration_s=spent, error=said)
        if strand is not None and strand.recorder.has_begun:
            _say_how_to_go_on(first, rt.base.get_metadata("run_dir"))
        raise first
    rt.tell("run.stop", name, name=name, duration_s=spent)
    if strand is not None:
        strand.recorder.finish(strand)


def _each_alone(body: tuple[Node, ...] | None, rt: Runtime, where: str) -> tuple[Step, ...]:
    """A closure for every node of a region, as each runs even where one before it has failed."""
    return tuple(step for node in body or () for step in compile_each((node,), rt, where))


def _say_how_to_go_on(error: BaseException, run_dir: str) -> None:
    """A note that tracebacks show, and the command line prints."""
    note = f"it can be taken up again: crucible resume {run_dir}, or run(..., resume={run_dir!r})"
    # As `add_note` does, which Python 3.10 lacks.
    error.__dict__.setdefault("__notes__", []).append(note)


def _flush(rt: Runtime, first: BaseException | None) -> BaseException | None:
    """Have the metrics store write what it has, also after a failure; the first error."""
    if "metrics_store" not in rt.ports:
        return first
    try:
        rt.ports.metrics_store.flush(rt.base.get_metadata("run_id"))
    except (CrucibleError, OSError) as error:
        if first is None:
            return error
        warnings.warn(f"metrics could not be flushed: {error}", RuntimeWarning, stacklevel=2)
    return first


def _clean_up(
    steps: tuple[Step, ...], rt: Runtime, where: str, first: BaseException | None
) -> BaseException | None:
    """Every stage of a region, each even if another one failed; the first error of the run.

    A second Ctrl-C ends the region, and is what the run ends with.
    """
    block = where.rpartition("/")[2]
    rt.cancel(False)
    rt.tell("block.start", where, block=block)
    began = time.perf_counter()
    for step in steps:
        rt.prefix = f"{where}/"
        try:
            step()
        except Exception as error:  # noqa: BLE001 - raised by `execute`, or told beside the first
            if first is None:
                first = error
            else:
                warnings.warn(f"clean-up failed as well: {error}", RuntimeWarning, stacklevel=2)
        except BaseException as error:  # noqa: BLE001 - raised by `execute`
            first = error
            break
    rt.tell("block.stop", where, block=block, duration_s=time.perf_counter() - began)
    return first
