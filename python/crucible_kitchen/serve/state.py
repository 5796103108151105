"""What the server remembers: sessions, training runs and their checkpoints, one file each.

A file is replaced whole, so that a server that was killed finds all that it had answered.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from crucible_kitchen.errors import CrucibleError

KINDS: Final = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}
"""Second part of a checkpoint's path -> what the protocol calls its type."""

ALPHA: Final = 32.0
"""The protocol's scale of an update is this over its rank."""

_PATH: Final = re.compile(rf"tinker://([^/]+)/({'|'.join(KINDS)})/([^/]+)")
_NAME: Final = re.compile(r"[\w.-]{1,128}")


class NotFound(CrucibleError):
    """There is no such session, run, checkpoint or request."""


class Refused(CrucibleError):
    """A request that cannot be done as it is asked."""


@dataclass
class Checkpoint:
    """Weights on disk.

    Args:
        kind, name: as in its path, ``tinker://RUN/KIND/NAME``.
        weights: folder of the adapter.
        state: folder of the whole session, where the optimizer is kept too.
        time, expires: seconds since the epoch.
        size: bytes of the weights.
    """

    kind: str
    name: str
    weights: str
    state: str | None
    time: float
    expires: float | None = None
    public: bool = False
    user_metadata: dict[str, Any] | None = None
    size: int = 0

    @property
    def files(self) -> dict[str, Path]:
        """Files of the weights, by their names in the folder."""
        folder = Path(self.weights)
        return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}


@dataclass
class Run:
    """A model that is, or was, trained.

    Args:
        time, asked: seconds since the epoch: of its beginning, and of the last request for it that
            was there when the record was saved.
        copied_from: path of the checkpoint that it was made to hold a copy of.
    """

    id: str
    session_id: str
    base_model: str
    rank: int
    seed: int | None
    train_mlp: bool
    train_attn: bool
    time: float
    user_metadata: dict[str, Any] | None = None
    checkpoints: list[Checkpoint] = field(default_factory=list)
    train_unembed: bool = False
    asked: float = 0.0
    copied_from: str | None = None

    @property
    def targets(self) -> list[str]:
        """Which layers are trained, as a session's configuration says it."""
        both = self.train_mlp and self.train_attn
        body = "all-linear" if both else "mlp" if self.train_mlp else "attention"
        targets = [body] if self.train_mlp or self.train_attn else []
        return [*targets, "head"] if self.train_unembed else targets

    @property
    def config(self) -> dict[str, Any]:
        """What a session of it is started with."""
        return {
            "model": self.base_model,
            "lora_rank": self.rank,
            "lora_alpha": ALPHA,
            "lora_targets": self.targets,
        }

    def path(self, checkpoint: Checkpoint) -> str:
        """What a client calls one of its checkpoints."""
        return f"tinker://{self.id}/{checkpoint.kind}/{checkpoint.name}"


@dataclass
class SessionRecord:
    """A program that trains or draws.

    Args:
        samplers: id of a sampler -> what it draws from: a base model, or a checkpoint's path.
        ended: how the program said that it ended: ``reason`` and ``detail``.
    """

    id: str
    time: float
    user_metadata: dict[str, Any] | None = None
    tags: list[str] = field(default_factory=list)
    display_name: str | None = None
    samplers: dict[str, str] = field(default_factory=dict)
    project_id: str | None = None
    sdk_version: str = ""
    ended: dict[str, Any] | None = None


Record = TypeVar("Record", Run, SessionRecord)


class State:
    """Records in a folder; every method may be called from any thread.

    Args:
        folder: made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        for name in ("runs", "sessions", "checkpoints"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.sessions: dict[str, SessionRecord] = {
            one.id: one for one in _read(folder / "sessions", _session)
        }
        self.runs: dict[str, Run] = {one.id: one for one in _read(folder / "runs", _run)}

    def save(self, record: Record) -> Record:
        """Keep a new or a changed record."""
        kind = "runs" if isinstance(record, Run) else "sessions"
        with self._lock:
            table: dict[str, Any] = self.runs if isinstance(record, Run) else self.sessions
            _write(self.folder / kind / f"{quote(record.id, safe='')}.json", asdict(record))
            table[record.id] = record
        return record

    def session(self, session_id: str) -> SessionRecord:
        """Raises: NotFound."""
        if session_id not in self.sessions:
            raise NotFound(f"no session {session_id!r}")
        return self.sessions[session_id]

    def run(self, run_id: str) -> Run:
        """Raises: NotFound."""
        if run_id not in self.runs:
            raise NotFound(f"no training run {run_id!r}")
        return self.runs[run_id]

    def find(self, path: str) -> tuple[Run, Checkpoint]:
        """The checkpoint of a ``tinker://`` path.

        Raises:
            Refused: that is no such path.
            NotFound: there is none, or its time has run out.
        """
        parts = _PATH.fullmatch(path)
        if parts is None:
            raise Refused(f"path must be tinker://RUN/{'|'.join(KINDS)}/NAME, got {path!r}")
        run = self.run(parts[1])
        for checkpoint in self.checkpoints(run):
            if (checkpoint.kind, checkpoint.name) == (parts[2], parts[3]):
                return run, checkpoint
        raise NotFound(f"no checkpoint {path!r}")

    def checkpoints(self, run: Run) -> list[Checkpoint]:
        """Those of a run that are still there; the ones whose time has run out are deleted."""
        now = time.time()
        with self._lock:
            for checkpoint in [c for c in run.checkpoints if c.expires and c.expires <= now]:
                self.delete(run, checkpoint)
            return list(run.checkpoints)

    def new_folder(self, run: Run, kind: str, name: str) -> Path:
        """Where a checkpoint's files go.

        Raises:
            Refused: the name cannot be a part of a path.
        """
        if not _NAME.fullmatch(name) or set(name) == {"."}:
            raise Refused(f"path must be a name of letters, digits, '_', '.', '-', got {name!r}")
        # Never the folder of one that is overwritten: it stays whole until the new one is.
        unique = f"{name}-{secrets.token_hex(4)}"
        return self.folder / "checkpoints" / quote(run.id, safe="") / kind / unique

    def add(self, run: Run, checkpoint: Checkpoint) -> str:
        """Remember a checkpoint in place of one of its name; its path."""
        with self._lock:
            old = [c for c in run.checkpoints if (c.kind, c.name) == _key(checkpoint)]
            run.checkpoints = [c for c in run.checkpoints if c not in old] + [checkpoint]
            self.save(run)
            for one in old:
                _remove(one)
        return run.path(checkpoint)

    def delete(self, run: Run, checkpoint: Checkpoint) -> None:
        """Forget a checkpoint, and delete its files."""
        with self._lock:
            run.checkpoints = [c for c in run.checkpoints if c is not checkpoint]
            self.save(run)
        _remove(checkpoint)


def moment(seconds: float) -> str:
    """A time as the protocol writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _key(checkpoint: Checkpoint) -> tuple[str, str]:
    return checkpoint.kind, checkpoint.name


def _remove(checkpoint: Checkpoint) -> None:
    for folder in {checkpoint.weights, checkpoint.state} - {None}:
        shutil.rmtree(str(folder), ignore_errors=True)


def _run(fields: dict[str, Any]) -> Run:
    fields["checkpoints"] = [Checkpoint(**one) for one in fields["checkpoints"]]
    return Run(**fields)


def _session(fields: dict[str, Any]) -> SessionRecord:
    return SessionRecord(**fields)


def _read(folder: Path, make: Any) -> Iterator[Any]:
    for path in sorted(folder.glob("*.json")):
        try:
            yield make(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError) as error:
            raise Refused(
                f"serve: {path} must be a record of this server, got {error}; take it away to go "
                "on without it"
            ) from error


def _write(path: Path, fields: dict[str, Any]) -> None:
    temporary = path.with_suffix(f".{secrets.token_hex(4)}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(fields, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
