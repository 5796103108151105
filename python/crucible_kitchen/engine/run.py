"""`run` and `arun`: a workflow from its first stage to its clean-up."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from crucible_kitchen.context import Context
from crucible_kitchen.ports import Ports

from .bridge import Bridge
from .checkpoint import Policy
from .events import Handler
from .job import Job
from .result import RunResult
from .signals import ended_by_sigterm


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
    job = Job(workflow, config, adapters, handlers, run_dir, metadata, seed, on_context, Bridge())
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
    job = Job(workflow, config, adapters, handlers, run_dir, metadata, seed, on_context, bridge)
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
