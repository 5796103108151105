"""Run a recipe or a workflow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, overload

from crucible_kitchen import engine
from crucible_kitchen.bootstrap.jobs import prepare_job, recorded
from crucible_kitchen.bootstrap.planning import planned
from crucible_kitchen.engine import Handler, Policy, RunResult
from crucible_kitchen.graph import Plan


@overload
def run(
    target: object = None,
    config: Any = None,
    adapters: Mapping[str, Any] | None = None,
    *,
    dry_run: Literal[False] = False,
    run_dir: str | os.PathLike[str] | None = None,
    handlers: Iterable[str | Handler] = ("console",),
    checkpoint: str | Policy | None = "auto",
    resume: str | os.PathLike[str] | None = None,
    allow_changed: bool = False,
    max_concurrency: int | None = None,
    check_inputs: bool = False,
) -> RunResult: ...
@overload
def run(
    target: object = None,
    config: Any = None,
    adapters: Mapping[str, Any] | None = None,
    *,
    dry_run: Literal[True],
    run_dir: str | os.PathLike[str] | None = None,
    handlers: Iterable[str | Handler] = ("console",),
    checkpoint: str | Policy | None = "auto",
    resume: str | os.PathLike[str] | None = None,
    allow_changed: bool = False,
    max_concurrency: int | None = None,
    check_inputs: bool = False,
) -> Plan: ...
def run(
    target: object = None,
    config: Any = None,
    adapters: Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    run_dir: str | os.PathLike[str] | None = None,
    handlers: Iterable[str | Handler] = ("console",),
    checkpoint: str | Policy | None = "auto",
    resume: str | os.PathLike[str] | None = None,
    allow_changed: bool = False,
    max_concurrency: int | None = None,
    check_inputs: bool = False,
) -> RunResult | Plan:
    """Run a recipe or a workflow to its end.

    Args:
        target: a recipe or its name (``"sft"``), a workflow or its class, or the path of a YAML
            file with a recipe or a workflow.
        config: mapping, or the recipe's `Config`.
        adapters: port name -> instance, class, ``(class, {options})``, or a name such as
            ``"noop"``. What a recipe can default, it defaults.
        dry_run: check everything and give the `Plan` instead, see `plan`; nothing runs.
        run_dir: new or empty folder for what the run leaves behind. By default a recipe makes one
            under ``runs``, a bare workflow keeps nothing.
        handlers: ``"console"``, ``"jsonl"``, or callables that take an `Event`.
        checkpoint: when to write down where the run stands: ``"stage"``, ``Every(stages)``,
            ``Seconds(seconds)``, or None for never. By default a recipe does once a minute, where
            all of it can be written down, and a bare workflow never.
        resume: folder of a run that was stopped, which goes on from its last checkpoint. What is
            None then is what it was: the target, the configuration, adapters by name.
        allow_changed: resume even where workflow, configuration or adapters differ.
        max_concurrency: most stages that run at once; 1 runs one after the other. The result is
            the same, so by default it is as many as it pays.
        check_inputs: whether a stage that changes a container, array or tensor it reads fails; it
            costs a look at all of them before and after each stage.
    Raises:
        ConfigError: the target or the configuration is wrong, or `resume` does not fit what it
            was begun with; nothing has run.
        WorkflowError: the workflow cannot run as it is; nothing has run.
        PortError: an adapter could not be made; nothing has run.
        StageError: a stage failed; its `__cause__` says why.
    """
    job = prepare_job(target, config, adapters, run_dir, checkpoint, resume, allow_changed)
    if dry_run:
        return planned(job)
    options = job.options(handlers, max_concurrency, check_inputs)
    with recorded(job):
        return engine.run(job.target.workflow, job.config, job.adapters, **options)


@overload
async def arun(
    target: object = None,
    config: Any = None,
    adapters: Mapping[str, Any] | None = None,
    *,
    dry_run: Literal[False] = False,
    run_dir: str | os.PathLike[str] | None = None,
    handlers: Iterable[str | Handler] = ("console",),
    checkpoint: str | Policy | None = "auto",
    resume: str | os.PathLike[str] | None = None,
    allow_changed: bool = False,
    max_concurrency: int | None = None,
    check_inputs: bool = False,
) -> RunResult: ...
@overload
async def arun(
    target: object = None,
    config: Any = None,
    adapters: Mapping[str, Any] | None = None,
    *,
    dry_run: Literal[True],
    run_dir: str | os.PathLike[str] | None = None,
    handlers: Iterable[str | Handler] = ("console",),
    checkpoint: str | Policy | None = "auto",
    resume: str | os.PathLike[str] | None = None,
    allow_changed: bool = False,
    max_concurrency: int | None = None,
    check_inputs: bool = False,
) -> Plan: ...
async def arun(
    target: object = None,
    config: Any = None,
    adapters: Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    run_dir: str | os.PathLike[str] | None = None,
    handlers: Iterable[str | Handler] = ("console",),
    checkpoint: str | Policy | None = "auto",
    resume: str | os.PathLike[str] | None = None,
    allow_changed: bool = False,
    max_concurrency: int | None = None,
    check_inputs: bool = False,
) -> RunResult | Plan:
    """`run` for async code; see there."""
    job = prepare_job(target, config, adapters, run_dir, checkpoint, resume, allow_changed)
    if dry_run:
        return planned(job)
    options = job.options(handlers, max_concurrency, check_inputs)
    with recorded(job):
        return await engine.arun(job.target.workflow, job.config, job.adapters, **options)
