"""`RecordInputs` keeps what stages are given, `spin` runs one of them on it again."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from crucible_kitchen.context import as_mapping
from crucible_kitchen.errors import ConfigError, CrucibleError, did_you_mean
from crucible_kitchen.graph import StageNode, Workflow, as_workflow, walk
from crucible_kitchen.graph.signature import Signature, Write
from crucible_kitchen.ports import Ports

from .events import Event
from .redact import hides
from .result import RunResult
from .run import run
from .runtime import Runtime
from .stepping import context_at, matcher, without_indices

_FOLDER = "inputs"


class RecordInputs:
    """A handler that keeps what stages are given, for `spin`, in the folder of the run.

    Args:
        *stages: ids of the executions, as breakpoints of `steps`; all of them where left out.
    """

    def __init__(self, *stages: str) -> None:
        self._patterns = stages or ("*",)
        self._runtime: Runtime | None = None
        self._nodes: dict[str, StageNode] = {}

    def watch(self, runtime: Runtime, workflow: Workflow) -> None:
        """Told of the run before it begins.

        Raises:
            ConfigError: the run has no folder, or a stage is none of the workflow's.
        """
        if runtime.base.get_metadata("run_dir") is None:
            raise ConfigError("RecordInputs: the run needs a run_dir, where the inputs are kept")
        self._matches = matcher(workflow, self._patterns, "RecordInputs")
        self._nodes = {path: n for path, n in walk(workflow) if isinstance(n, StageNode)}
        self._runtime = runtime

    def __call__(self, event: Event) -> None:
        if event.kind != "stage.start" or not self._matches(event.path):
            return
        assert self._runtime is not None
        context = context_at(self._runtime, event.path)
        node = self._nodes[without_indices(event.path)]
        everything = node.opaque or node.signature.sees_context
        keys = [*context.state, *context.config] if everything else [r.key for r in node.reads]
        inputs: dict[str, dict[str, bytes]] = {"state": {}, "config": {}}
        for key in keys:
            where = "state" if key in context.state else "config"
            value = (context.state if where == "state" else context.config).get(key)
            data = None if hides(key, value) else _pickled(key, value, event.path)
            if data is not None:
                inputs[where][key] = data
        folder = Path(context.metadata.run_dir) / _FOLDER
        folder.mkdir(exist_ok=True)
        place = folder / _file(event.path)
        partial = place.with_suffix(".partial")
        partial.write_bytes(pickle.dumps({"seed": self._runtime.seed, **inputs}, protocol=5))
        partial.replace(place)


def _file(path: str) -> str:
    return f"{quote(path, safe='[]')}.pickle"


def _pickled(key: str, value: Any, path: str) -> bytes | None:
    try:
        return pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        said = f"RecordInputs: input {key!r} of {path} is left out: {error}"
        warnings.warn(said, RuntimeWarning, stacklevel=4)
        return None


def spin(
    workflow: object,
    path: str,
    config: object = None,
    adapters: Mapping[str, Any] | Ports | None = None,
    *,
    recorded: str | os.PathLike[str] | Mapping[str, Any],
    **options: Any,
) -> RunResult:
    """Run one stage alone, on what it was given in a run; ids, random numbers and errors are those
    of that run.

    Args:
        workflow: value, or `Workflow` class; its stage may have changed since.
        path: id of the execution, such as ``sft/epochs[0]/batches[7]/optim_step``.
        config: added to what was recorded, and used in place of it.
        adapters: of the ports that the stage uses.
        recorded: folder of a run that `RecordInputs` listened to, or the inputs themselves.
        **options: of `run`.
    Raises:
        ConfigError: no such stage, or no such execution was recorded.
        WorkflowError: an input or an adapter of the stage is missing.
        StageError: the stage failed.
    """
    value = as_workflow(workflow)
    bare = without_indices(path)
    stages = {where: n for where, n in walk(value) if isinstance(n, StageNode)}
    if bare not in stages:
        raise ConfigError(f"spin: no stage is at {path!r}; {did_you_mean(bare, stages)}")
    fields = dict(as_mapping({} if config is None else config))
    if isinstance(recorded, Mapping):
        state = dict(recorded)
    else:
        state, known, seed = _read(Path(recorded), path)
        fields = {**known, **fields}
        options.setdefault("seed", seed)
    place, _, _ = path.rpartition("/")
    node = replace(stages[bare], after=())
    body = (_given(state), node) if state else (node,)
    return run(Workflow(place, body, value.source), fields, adapters, **options)


def _given(state: Mapping[str, Any]) -> StageNode:
    """A stage that writes what was recorded."""
    keys, values = tuple(state), tuple(state.values())
    signature = Signature(writes=tuple(Write(key) for key in keys))
    only = values[0] if len(values) == 1 else values
    return StageNode("recorded_inputs", lambda: only, signature)


def _read(run_dir: Path, path: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """State, configuration and seed of one execution."""
    folder = run_dir / _FOLDER
    place = folder / _file(path)
    if not place.is_file():
        there = {unquote(one.stem) for one in folder.glob("*.pickle")}
        advice = did_you_mean(path, there) or "have RecordInputs listen to the run"
        raise ConfigError(f"spin: {run_dir} has no inputs of {path!r}; {advice}")
    try:
        kept = pickle.loads(place.read_bytes())
        state, config = (
            {key: pickle.loads(data) for key, data in kept[part].items()}
            for part in ("state", "config")
        )
        return state, config, int(kept["seed"])
    except (pickle.UnpicklingError, AttributeError, ImportError, EOFError, KeyError) as error:
        raise CrucibleError(f"spin: {place} cannot be read: {error!r}") from error
