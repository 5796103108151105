"""What is kept of a model on disk: checkpoints to train on from, weights to draw with."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from crucible_kitchen.ports import Session, TrainingClient

from . import bodies
from .state import Checkpoint, Refused, Run, State

_EXTERNAL: Final = "external_weights"


class Saves:
    """Writes what models are asked to save; it may take long.

    Args:
        client: has the models.
        state: what is remembered.
        new_sampler: of a program, a checkpoint's path and the program's own number: the id of a
            sampler that draws from it.
    """

    def __init__(
        self,
        client: TrainingClient,
        state: State,
        new_sampler: Callable[[str, str, int | None], str],
    ) -> None:
        self._client, self._state, self._new_sampler = client, state, new_sampler

    def write(self, run: Run, session: Session, body: bodies.SaveWeights) -> dict[str, Any]:
        """A checkpoint that training can go on from."""
        names = {(c.kind, c.name) for c in self._state.checkpoints(run)}
        if ("weights", body.path) in names and not body.overwrite:
            raise Refused(f"path: there is a checkpoint {body.path!r}; overwrite replaces it")
        folder = self._state.new_folder(run, "weights", body.path)
        self._client.save_checkpoint(session, str(folder)).result()
        weights = self._adapter(session, folder.with_name(f"{folder.name}-weights"))
        checkpoint = _checkpoint("weights", body.path, body, weights, str(folder))
        return {"path": self._state.add(run, checkpoint), "type": "save_weights"}

    def write_for_sampler(
        self, run: Run, session: Session, body: bodies.SaveForSampler
    ) -> dict[str, Any]:
        """Weights to draw with; where they get no name, a sampler of them."""
        name = body.path or f"ephemeral-{secrets.token_hex(6)}"
        folder = self._state.new_folder(run, "sampler_weights", name)
        weights = self._adapter(session, folder)
        path = self._state.add(run, _checkpoint("sampler_weights", name, body, weights, None))
        answer = {"type": "save_weights_for_sampler"}
        if body.path is not None:
            return {**answer, "path": path}
        sampler_id = self._new_sampler(run.session_id, path, body.sampling_session_seq_id)
        return {**answer, "sampling_session_id": sampler_id}

    def write_external(
        self, run: Run, session: Session, body: bodies.SaveExternal
    ) -> dict[str, Any]:
        """Weights to be downloaded, in PEFT's format."""
        if any(c.kind == _EXTERNAL and c.name == body.path for c in self._state.checkpoints(run)):
            raise Refused(f"path: there are external weights {body.path!r}; delete them first")
        weights = self._adapter(session, self._state.new_folder(run, _EXTERNAL, body.path))
        path = self._state.add(run, _checkpoint(_EXTERNAL, body.path, body, weights, None))
        return {"path": path, "type": "save_weights_external"}

    def _adapter(self, session: Session, folder: Path) -> str:
        written = self._client.save_weights_for_sampler(session, secrets.token_hex(8)).result()
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(written, folder)
        return str(folder)


def _checkpoint(
    kind: str,
    name: str,
    body: bodies.SaveWeights | bodies.SaveForSampler | bodies.SaveExternal,
    weights: str,
    state: str | None,
) -> Checkpoint:
    now = time.time()
    expires = None if body.ttl_seconds is None else now + body.ttl_seconds
    said = None if isinstance(body, bodies.SaveExternal) else body.user_metadata
    metadata = None if said is None else dict(said)
    made = Checkpoint(kind, name, weights, state, now, expires, user_metadata=metadata)
    made.size = sum(file.stat().st_size for file in made.files.values())
    return made
