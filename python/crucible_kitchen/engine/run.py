"""`run` and `arun`: a workflow from its first stage to its clean-up."""

from __future__ import annotations

import contextvars
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible_kitchen.context import Context, MetricLog
from crucible_kitchen.errors import CrucibleError, StageError, WorkflowError
from crucible_kitchen.graph import Workflow, as_workflow, find_problems
from crucible_kitchen.graph.blocks import ERROR_KEYS, count_defects
from crucible_kitchen.graph.facts import facts_of
from crucible_kitchen.graph.keys import is_concurrent
from crucible_kitchen.ports import Ports, resolve

from .bridge import Bridge
from .checkpoint import Policy
from .compile import compile_body, compile_each
from .events import Emitter, Event, Handler
from .handlers import make_handlers
from .keepable import checkpoint_problems
from .keeping import Keeping
from .redact import Redactor, hide
from .runtime import Runtime
from .signals import ended_by_sigterm
from .stages import Step
from .telemetry import attached


@dataclass(frozen=True)
class RunResult:
    """What a run gave.

    Args:
        context: at the end: state, configuration, metadata.
        metrics: everything recorded, in order.
        duration_s: of the whole run, clean-up included.
        run_dir: the run's folder, None where it has none.
    """

    context: Context
    metrics: MetricLog
    duration_s: float
    run_dir: Path | None

    @property
    def artifacts(self) -> dict[str, str]:
        """Files the run left behind: keys of the state that hold a path, or end in ``_path``."""
        return {
            key: os.fspath(value)
            for key, value in self.context.state.items()
            if isinstance(value, os.PathLike) or (key.endswith("_path") and isinstance(value, str))
        }


def run(
    workflow: object,
    config: object = None,
    adapters: Mapping[str, Any] | Ports | None = None,
    *,
    handlers: Iterable[str | Handler] = (),
    run_dir: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    seed: int | None = None,
    on_context: Callable[[Context], object] | None = None,
    checkpoint: str | Policy | None = None,
    resume: bool = False,
    allow_changed: bool = False,
    max_concurrency: int | None = None,
    check_inputs: bool = False,
) -> RunResult:
    """Check a workflow completely, then run it in this thread.

    Adapters given as classes are made for this run and closed after it; an instance stays open, it
    belongs to the caller. Works inside a running event loop as well, which it blocks; see `arun`.
    In the main thread, SIGTERM ends it as Ctrl-C does: with its clean-up, then `SystemExit(143)`.

    Args:
        workflow: value, or `Workflow` class.
        config: mapping or pydantic model.
        adapters: port name -> instance, class, or ``(class, {options})``.
        handlers: ``"console"``, ``"jsonl"``, or callables that take an `Event`.
        run_dir: folder for what the run leaves behind; made where it does not exist.
        metadata: joined to the context's metadata.
        seed: of `Rng`; where left out, the configuration's ``seed``, or 0.
        on_context: called with the last context, also after a failure, before ports are closed.
        checkpoint: when to write down where the run stands, so that it can be taken up again:
            ``"stage"`` after each, ``Every(stages)`` or ``Seconds(seconds)``; needs a `run_dir`.
        resume: go on with the run that `run_dir` is of, from its last checkpoint.
        allow_changed: resume also where workflow, configuration or adapters have changed.
        max_concurrency: most stages that run at once; 1 runs one after the other. The result is
            the same, so by default it is as many as it pays.
        check_inputs: whether a stage that changes a container, array or tensor it reads fails; it
            costs a look at all of them before and after each stage.
    Raises:
        ConfigError: `checkpoint` or `resume` without a folder, nothing to resume, or another
            workflow, configuration or adapters than it was begun with; nothing has run.
        WorkflowError: the workflow cannot run; nothing has run.
        PortError: an adapter could not be made; nothing has run.
        StageError: a stage failed; its `__cause__` is the stage's own exception.
    """
    job = _Job(workflow, config, adapters, handlers, run_dir, metadata, seed, on_context, Bridge())
    job.keep(checkpoint, resume, allow_changed)
    job.limit(max_concurrency, check_inputs)
    with ended_by_sigterm():
        return job.run()


async def arun(
    workflow: object,
    config: object = None,
    adapters: Mapping[str, Any] | Ports | None = None,
    *,
    handlers: Iterable[str | Handler] = (),
    run_dir: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    seed: int | None = None,
    on_context: Callable[[Context], object] | None = None,
    checkpoint: str | Policy | None = None,
    resume: bool = False,
    allow_changed: bool = False,
    max_concurrency: int | None = None,
    check_inputs: bool = False,
) -> RunResult:
    """`run` for async code: async stages run in this event loop, the others on one thread.

    Cancelling it cancels the async stage that is running, or ends the run after the stage that is
    running; the clean-up runs in either case before the cancellation goes on.
    """
    import asyncio  # here and not above, so that `run` alone does not load it

    loop = asyncio.get_running_loop()
    bridge = Bridge(loop)
    job = _Job(workflow, config, adapters, handlers, run_dir, metadata, seed, on_context, bridge)
    job.keep(checkpoint, resume, allow_changed)
    job.limit(max_concurrency, check_inputs)
    outcome: asyncio.Future[RunResult] = loop.create_future()

    def settle(result: RunResult | None, error: BaseException | None) -> None:
        if error is None:
            assert result is not None
            outcome.set_result(result)
        elif isinstance(error, asyncio.CancelledError):
            outcome.cancel()
        else:
            outcome.set_exception(error)

    def work() -> None:
        try:
            result = job.run()
        except BaseException as error:  # noqa: BLE001 - handed to the awaiting task
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="crucible-run", daemon=True)
    thread.start()
    try:
        with ended_by_sigterm():
            return await asyncio.shield(outcome)
    except asyncio.CancelledError:
        job.cancel()
        await asyncio.wait([outcome])
        if not outcome.cancelled():
            outcome.exception()  # seen: the cancellation is what the caller asked for
        raise
    finally:
        if outcome.done():  # telling so was the last thing it had to do
            thread.join()


class _Job:
    """One run: made, run once, cancelled from another thread at most."""

    def __init__(
        self,
        workflow: object,
        config: object,
        adapters: Mapping[str, Any] | Ports | None,
        handlers: Iterable[str | Handler],
        run_dir: str | os.PathLike[str] | None,
        metadata: Mapping[str, Any] | None,
        seed: int | None,
        on_context: Callable[[Context], object] | None,
        bridge: Bridge,
    ) -> None:
        self.workflow: Workflow = as_workflow(workflow)
        self.config = {} if config is None else config
        self.adapters = {} if adapters is None else adapters
        self.handlers = handlers
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.metadata = dict(metadata or {})
        self.seed = seed
        self.on_context = on_context
        self.bridge = bridge
        self._width: int | None = None
        self._check_inputs = False
        self._runtime: Runtime | None = None
        self._cancelled = False
        self._keeping: Keeping | None = None

    def keep(self, checkpoint: str | Policy | None, resume: bool, allow_changed: bool) -> None:
        """Have the run keep a journal, or go on from one."""
        self._keeping = Keeping.wanted(self.run_dir, checkpoint, resume, allow_changed)

    def limit(self, max_concurrency: int | None, check_inputs: bool) -> None:
        """Bound what runs at once, and say whether stages are watched."""
        wrong = count_defects("max_concurrency", max_concurrency, 1)
        if wrong:
            raise ValueError(f"run: {wrong[0].message}")
        self._width, self._check_inputs = max_concurrency, check_inputs

    def cancel(self) -> None:
        """End the run at the next stage, and the async stage that is running now."""
        self._cancelled = True
        if self._runtime is not None:
            self._runtime.cancel(True)

    def run(self) -> RunResult:
        keeping = self._keeping
        more = () if keeping is None else checkpoint_problems(self.workflow, self.adapters)
        problems = [*find_problems(self.workflow, self.config, self.adapters), *more]
        if problems:
            raise WorkflowError(problems)
        began = time.perf_counter()
        if self.run_dir is not None:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        ports = resolve(self.adapters)
        emitter: Emitter | None = None
        failed = True
        try:
            base, seed = self._base(ports)
            if keeping is not None:
                base = keeping.open(self.workflow, base, seed, ports)
                if keeping.finished:
                    failed = False
                    if self.on_context is not None:
                        self.on_context(base)
                    return RunResult(base, base.metrics, 0.0, self.run_dir)
            emitter = Emitter([*make_handlers(self.handlers, self.run_dir), *attached()])
            runtime = self._prepare(base, seed, ports, emitter if emitter.handlers else None)
            self._runtime = runtime
            runtime.cancelled, runtime.checked = self._cancelled, self._check_inputs
            for handler in emitter.handlers:
                if hasattr(handler, "watch"):
                    handler.watch(runtime, self.workflow)
            if keeping is not None:
                keeping.follow(runtime, emitter.handlers)
            _execute(self.workflow, runtime, began)
            failed = False
        finally:
            if self._runtime is not None and self.on_context is not None:
                self.on_context(_last_context(self._runtime))
            self.bridge.close()
            if self._runtime is not None and self._runtime.locks.workers is not None:
                self._runtime.locks.workers.close()
            if emitter is not None:
                emitter.close()
            _close_owned(ports, self.adapters, failed)
            if keeping is not None:
                keeping.close()
        context = _last_context(runtime)
        return RunResult(context, context.metrics, time.perf_counter() - began, self.run_dir)

    def _base(self, ports: Ports) -> tuple[Context, int]:
        metadata = {
            "workflow": self.workflow.name,
            "run_dir": None if self.run_dir is None else str(self.run_dir),
            **self.metadata,
        }
        base = Context(self.config, self.adapters, metadata=metadata, ports=ports)
        seed = base.get_config("seed", 0) if self.seed is None else self.seed
        return base, int(seed or 0)

    def _prepare(self, base: Context, seed: int, ports: Ports, emitter: Emitter | None) -> Runtime:
        redact = Redactor(dict(base.config), dict(base.adapters))
        emit = None if emitter is None else emitter.emit
        if emitter is not None and is_concurrent(self.workflow):
            emit = emitter.one_at_a_time
        facts = facts_of(self.workflow)
        runtime = Runtime(base, ports, emit, seed, self.bridge, redact, facts, self._width)
        if emitter is not None:
            # What overlaps runs on forks while the run itself waits, and so tells nothing.
            runtime.locks.emit = emitter.one_at_a_time
        return runtime


def _last_context(runtime: Runtime) -> Context:
    return runtime.base.replace(
        _state=dict(runtime.state), _log=runtime.metrics.log, _recorder=None
    )


def _execute(workflow: Workflow, rt: Runtime, began: float) -> None:
    """The body, ``on_error`` where it failed, ``finally``; the first error is the one raised."""
    name = workflow.name
    body = compile_body(workflow.body, rt, name)
    strand, rt.strand = rt.strand, None  # what cleans up is never skipped
    failed = compile_each(workflow.on_error_body or (), rt, f"{name}/on_error")
    final = compile_each(workflow.finally_body or (), rt, f"{name}/finally")
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
        except Exception as error:  # noqa: BLE001 - raised by `_execute`, or told beside the first
            if first is None:
                first = error
            else:
                warnings.warn(f"clean-up failed as well: {error}", RuntimeWarning, stacklevel=2)
        except BaseException as error:  # noqa: BLE001 - raised by `_execute`
            first = error
            break
    rt.tell("block.stop", where, block=block, duration_s=time.perf_counter() - began)
    return first


def _close_owned(ports: Ports, given: Mapping[str, Any] | Ports, failed: bool) -> None:
    """Close the adapters that were made for this run, last first.

    Raises:
        CrucibleError: one could not be closed, unless the run has failed before.
    """
    if isinstance(given, Ports):
        return
    problem: CrucibleError | OSError | None = None
    for name in reversed(list(ports)):
        adapter = ports[name]
        if adapter is given[name]:
            continue
        try:
            adapter.close()
        except (CrucibleError, OSError) as error:
            problem = problem or error
    if problem is None:
        return
    if failed:
        warnings.warn(f"an adapter could not be closed: {problem}", RuntimeWarning, stacklevel=2)
    else:
        raise problem


__all__ = ["Event", "RunResult", "arun", "run"]
