"""Look at a run before it runs: check it, plan it, see its rows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crucible_kitchen import engine, graph, report
from crucible_kitchen.bootstrap.jobs import prepare
from crucible_kitchen.data import Preview
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.graph import Plan
from crucible_kitchen.recipes import measure
from crucible_kitchen.report import Job


def validate(target: object, config: Any = None, adapters: Mapping[str, Any] | None = None) -> None:
    """Check everything that can be checked without running.

    Raises:
        ConfigError: the target or the configuration is wrong.
        WorkflowError: with every problem of the workflow and its adapters.
    """
    job = prepare(target, config, adapters, None)
    try:
        job.check()
    finally:
        job.close()


def plan(
    target: object,
    config: Any = None,
    adapters: Mapping[str, Any] | None = None,
    *,
    timings: str | os.PathLike[str] | None = None,
    calibrate: bool = False,
) -> Plan:
    """Check everything and say what a run will do: stages, how often, in which order, how long.

    Args:
        target: see `run`.
        config: see `run`.
        adapters: see `run`.
        timings: folder of an earlier run, for the times of its stages.
        calibrate: load the model and the data and take a few steps, to say how many steps, how
            long and how much memory the run will take; only for recipes with a `calibration`.
    Raises:
        ConfigError: the target or the configuration is wrong.
        WorkflowError: with every problem of the workflow and its adapters.
        CrucibleError: the folder cannot be read.
        StageError: a stage failed while it was measured, as it would in the run.
    """
    return planned(prepare(target, config, adapters, None), timings, calibrate)


def planned(
    job: Job, timings: str | os.PathLike[str] | None = None, calibrate: bool = False
) -> Plan:
    """What a job will do; the job is closed."""
    try:
        job.check()
        known = None if timings is None else report.read_timings(Path(timings))
        made = graph.plan(job.target.workflow, job.config, job.adapters, timings=known)
        if not calibrate:
            return made
        recipe = job.target.recipe
        if recipe is None or recipe.calibration is None:
            raise ConfigError(f"plan: {job.target.name} has no calibration; leave calibrate out")
        estimate = measure(recipe.calibration, job.config, job.adapters)
        return dataclasses.replace(made, estimate=estimate)
    finally:
        job.close()


def preview(
    target: object, config: Any = None, adapters: Mapping[str, Any] | None = None
) -> Preview:
    """The rows that a recipe would train on, as its model reads them; nothing is trained.

    Raises:
        ConfigError: the target or the configuration is wrong, or the target is no recipe.
        WorkflowError: the adapters cannot do it.
        StageError: rows that cannot be used, all of them named, or a port failed.
    """
    job = prepare(target, config, adapters, None)
    try:
        recipe = job.target.recipe
        shown = None if recipe is None else recipe.preview
        if shown is None:
            raise ConfigError(f"preview: target must be a recipe with rows to show, got {target!r}")
        ports = graph.describe(shown)["ports"]
        used = {port: one for port, one in job.adapters.items() if port in ports}
        result = engine.run(shown, job.config, used, handlers=(), metadata=job.metadata)
    finally:
        job.close()
    found: Preview = result.context.state.preview
    return found
