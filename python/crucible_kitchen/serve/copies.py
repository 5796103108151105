"""Checkpoints copied to where they belong to another session or project."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from dataclasses import replace

from . import bodies
from .state import Refused, SessionRecord, State


def copy_weights(state: State, body: bodies.Copy, key: str | None) -> str:
    """Copy a checkpoint into a run of its own, which nothing trains; the copy's path.

    Files are shared with the source's, and stay when that is deleted.

    Args:
        state: what is remembered.
        body: what to copy, and where to.
        key: of a request that may come twice; the second time gives the first's path.

    Raises:
        NotFound: there is no such checkpoint or session.
        Refused: it does not say where to, or the place is taken.
    """
    source, checkpoint = state.find(body.source_path)
    session, number = _place(state, body, key)
    run_id = f"{session.id}:train:{number}"
    if run_id in state.runs:
        (there,) = state.checkpoints(state.run(run_id))[:1] or (None,)
        if there is None or state.run(run_id).copied_from != body.source_path:
            raise Refused(f"model_seq_id: {run_id} is taken")
        return state.run(run_id).path(there)
    now = time.time()
    run = replace(
        source,
        id=run_id,
        session_id=session.id,
        time=now,
        asked=now,
        checkpoints=[],
        copied_from=body.source_path,
    )
    expires = None if body.ttl_seconds is None else now + body.ttl_seconds
    made = replace(checkpoint, time=now, expires=expires, public=False)
    for name in ("weights", "state"):
        if (folder := getattr(checkpoint, name)) is not None:
            target = state.new_folder(run, checkpoint.kind, checkpoint.name)
            shutil.copytree(folder, target, copy_function=_share)
            setattr(made, name, str(target))
    return state.add(run, made)


def _place(state: State, body: bodies.Copy, key: str | None) -> tuple[SessionRecord, int]:
    """The session that gets the copy, and the number of the run there."""
    if (body.session_id is None) != (body.model_seq_id is None):
        raise Refused("copy_weights: session_id and model_seq_id must come together")
    if body.session_id is not None and body.model_seq_id is not None:
        return state.session(body.session_id), body.model_seq_id
    if body.destination_project_id is None:
        raise Refused("copy_weights: needs a destination_project_id, or a session_id")
    session_id = secrets.token_hex(16)
    if key is not None:
        session_id = hashlib.sha256(key.encode()).hexdigest()[:32]
    if session_id in state.sessions:
        return state.session(session_id), 0
    new = SessionRecord(session_id, time.time(), project_id=body.destination_project_id)
    return state.save(new), 0


def _share(source: str, target: str) -> None:
    """One file under two names, where the disk has that; a second one elsewhere."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
