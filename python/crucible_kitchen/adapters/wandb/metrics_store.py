"""Metrics as runs of Weights & Biases."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from crucible_kitchen import ports
from crucible_kitchen.adapters.foreign import check_reachable, library, speaking_our_errors
from crucible_kitchen.adapters.points import MARK, point_of, point_text
from crucible_kitchen.ports import metric_point, run_id_of
from crucible_kitchen.types import MetricPoint

from .run_file import records

_POINT: Final = f"{MARK}/point"
_STEP: Final = f"{MARK}/step"
_QUIET: Final = {"silent": True, "console": "off", "disable_git": True, "save_code": False}


class MetricsStore(ports.MetricsStore):
    """One W&B run a run, resumed where there is one already.

    W&B knows no metadata, and its steps only rise, so each row also holds the point as text, and
    each metric is drawn over a step of its own. `read` gives what was recorded here, and what W&B's
    files below `dir` hold from before: also without a network, but nothing of other machines.

    Args:
        project: made when it is not there.
        entity: user or team; by default the key's own.
        mode: ``online``, ``offline``, or None for what ``WANDB_MODE`` says.
        dir: folder for W&B's files.
    """

    def __init__(
        self,
        project: str = "crucible-kitchen",
        entity: str | None = None,
        mode: str | None = None,
        dir: str = ".",  # noqa: A002 - W&B's own name for it
    ) -> None:
        self._project, self._entity, self._mode = project, entity, mode
        self._dir = Path(os.fspath(dir))
        self._runs: dict[str, Any] = {}
        self._points: dict[str, list[MetricPoint]] = {}
        self._own_files: set[Path] = set()
        self._lock = threading.Lock()

    def record(
        self,
        run: ports.Run,
        name: str,
        value: float,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand one value to W&B, which sends or writes it from a process of its own."""
        point = metric_point(run, name, value, step, metadata, time.time())
        row: dict[str, Any] = {name: point.value, _POINT: point_text(point)}
        if point.step is not None:
            row[_STEP] = point.step
        with self._lock, _errors(f"record {name} of run {point.run_id}"):
            self._opened(point.run_id).log(row)
            self._points.setdefault(point.run_id, []).append(point)

    def flush(self, run: ports.Run) -> None:
        """W&B's process has every value when `record` returns; only the run is checked."""
        run_id_of(run)

    def read(self, run: ports.Run) -> list[MetricPoint]:
        """What earlier processes recorded below `dir`, then what this store did."""
        run_id = run_id_of(run)
        with self._lock, _errors(f"read run {run_id}"):
            pattern = f"wandb/*run-*/run-{_wandb_id(run_id)}.wandb"
            earlier = sorted(set(map(Path.resolve, self._dir.glob(pattern))) - self._own_files)
            before = [point for file in earlier for point in _points(file, run_id)]
            return before + self._points.get(run_id, [])

    def close(self) -> None:
        """Finish the runs; a later `record` resumes its run."""
        with self._lock, _errors("finish its runs"):
            while self._runs:
                self._runs.popitem()[1].finish()

    def _opened(self, run_id: str) -> Any:
        if run_id not in self._runs:
            wandb = _library("wandb")
            if (self._mode or os.environ.get("WANDB_MODE", "online")) == "online":
                # W&B itself asks for 90 seconds before it says that nobody answers.
                check_reachable(wandb.setup().settings.base_url)
            self._dir.mkdir(parents=True, exist_ok=True)
            opened = wandb.init(
                project=self._project,
                entity=self._entity,
                mode=self._mode,
                dir=str(self._dir),
                id=_wandb_id(run_id),
                name=run_id,
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(**_QUIET),
            )
            opened.define_metric("*", step_metric=_STEP)
            self._own_files.add(Path(opened.settings.sync_file).resolve())
            self._runs[run_id] = opened
        return self._runs[run_id]


def _wandb_id(run_id: str) -> str:
    """A run's id as one of W&B's, which take only some characters and 128 of them."""
    if re.fullmatch(r"[\w.-]{1,100}", run_id, re.ASCII):
        return run_id
    return f"{MARK}-{hashlib.sha256(run_id.encode()).hexdigest()[:24]}"


def _points(file: Path, run_id: str) -> Iterator[MetricPoint]:
    messages = _library("wandb.proto.wandb_internal_pb2")
    for text in records(file):
        record = messages.Record.FromString(text)
        row = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
        if _POINT in row:
            at = float(json.loads(row["_timestamp"])) if "_timestamp" in row else None
            yield point_of(json.loads(row[_POINT]), run_id, at)


def _library(module: str) -> Any:
    return library(module, port="metrics_store", extra="wandb")


def _errors(doing: str) -> AbstractContextManager[None]:
    secret = os.environ.get("WANDB_API_KEY")
    return speaking_our_errors("metrics_store", doing, _foreign, secret)


def _foreign() -> tuple[type[Exception], ...]:
    errors, protobuf = _library("wandb.errors"), _library("google.protobuf.message")
    # What W&B's process refuses, such as a run that another store has open, is no `wandb.Error`
    # where it has a class of its own.
    answers = _library("wandb.sdk.mailbox.mailbox_handle")
    refusal = getattr(answers, "ServerResponseError", errors.Error)
    return (errors.Error, refusal, protobuf.Error, OSError)
