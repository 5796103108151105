"""A job: what `run`, `plan` and `preview` share, from the words of a user to what can run."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from crucible_kitchen import report
from crucible_kitchen.bootstrap.defaults import with_defaults
from crucible_kitchen.bootstrap.table import load_run_folder, named_adapters
from crucible_kitchen.context.run_context import as_mapping
from crucible_kitchen.engine import Policy
from crucible_kitchen.engine.journal import Story, has_journal, read_journal
from crucible_kitchen.engine.resume import shown_config
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.graph.flow import keys_read
from crucible_kitchen.graph.loops import Loop
from crucible_kitchen.recipes import find_target
from crucible_kitchen.report import Job


def prepare(
    target: object,
    config: Any,
    adapters: Mapping[str, Any] | None,
    run_dir: str | os.PathLike[str] | None,
    *,
    keeps: bool = False,
    resumed: bool = False,
) -> Job:
    found = find_target(target)
    checked = found.configured(config)
    named = {**found.adapters, **(adapters or {})}
    given = named_adapters(named)
    started = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started))
    run_id = f"{found.name}-{stamp}-{uuid.uuid4().hex[:4]}"
    folder = run_dir or found.run_dir
    if folder is None and (keeps or found.recipe is not None):
        folder = Path("runs") / run_id
    path = None if folder is None else Path(folder) if resumed else _new_folder(Path(folder))
    owned: list[Any] = []
    if found.recipe is not None:
        given = with_defaults(found.recipe, checked, given, path, owned)
    metadata = {"run_id": run_id, "started_at": started}
    asked = report.asked(target, checked, named)
    return Job(found, checked, given, owned, path, metadata, asked)


def prepare_job(
    target: object,
    config: Any,
    adapters: Mapping[str, Any] | None,
    run_dir: str | os.PathLike[str] | None,
    checkpoint: str | Policy | None,
    resume: str | os.PathLike[str] | None,
    allow_changed: bool,
) -> Job:
    """A run that begins, or one that is taken up again."""
    if resume is None:
        if target is None:
            raise ConfigError("run: target must be given, got None; only resume can do without")
        keeps = checkpoint not in (None, "auto")
        job = prepare(target, config, adapters, run_dir, keeps=keeps)
        job.keep(checkpoint, False, allow_changed)
        return job
    folder, copies = Path(resume), []
    if run_dir is not None and Path(run_dir).absolute() != folder.absolute():
        raise ConfigError(f"run: run_dir must be that of resume={str(resume)!r}, got {run_dir!r}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        copies.append(load_run_folder()(folder))
        folder = copies[0].path
    asked = report.asked_before(folder, target, config, adapters)
    job = prepare(*asked, folder, resumed=True)
    job.owned[:0] = copies  # closed last
    job.metadata = {**report.identity(folder), "resumed_at": time.time()}
    # Killed before it had begun its journal, a run has done nothing and starts.
    begun = has_journal(folder)
    if begun:
        _refuse_what_stays(job, read_journal(folder), folder)
    job.keep(checkpoint, resumed=begun, allow_changed=allow_changed)
    return job


def _refuse_what_stays(job: Job, story: Story, run_dir: Path) -> None:
    """Refuse other values of what a recipe settles before its first step, allowed or not.

    Rows, batches, their number and the reference's answers are made there and kept. A value that
    was read for them would change nothing in what is left, or only a part of it.

    Raises:
        ConfigError: with those that differ, and with all that may.
    """
    if job.target.recipe is None or story.finished is not None or not story.main.at:
        return  # Without a checkpoint it starts over, and reads everything again.
    before, now = story.about["config"], shown_config(as_mapping(job.config))
    workflow = job.target.workflow
    settled = set(keys_read(takewhile(lambda node: not isinstance(node, Loop), workflow.body)))
    stay = [key for key in now if key in before and key in settled and now[key] != before[key]]
    if stay:
        differ = "\n".join(f"  - {key}: {before[key]} before, {now[key]} now" for key in stay)
        raise ConfigError(
            f"resume: {run_dir} has used these already, before its first step:\n{differ}\n"
            "Go on with what it was begun with, or begin a run with start_from=RUN_DIR. What may "
            f"change is {', '.join(sorted(now.keys() - settled))}"
        )


def _new_folder(path: Path) -> Path:
    """The folder of a run that begins; two runs never share one.

    Raises:
        ConfigError: it holds something already, or is no folder.
    """
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(
            f"run_dir must be a new or an empty folder, got {path}, which holds files"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"run_dir must be a folder, got the file {path}")
    return path


@contextmanager
def recorded(job: Job) -> Iterator[None]:
    """Write what the run's folder needs before and after it, and close what was made for it."""
    failed = True
    try:
        job.check()
        if job.run_dir is not None and not job.resumed:
            report.write_config(job.run_dir, job.about())
        yield
        failed = False
    finally:
        job.close()
        if job.run_dir is not None and (job.run_dir / report.EVENTS).exists():
            report.write_after(job.run_dir, failed)
