"""Sessions found by what their programs said of themselves, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from . import bodies
from .answers import OWNER, as_text
from .state import Run, SessionRecord, State, moment


def search_sessions(
    state: State, body: bodies.Search, is_heard: Callable[[str], bool]
) -> dict[str, Any]:
    """A page of what is found, newest first, and where the next begins.

    Args:
        state: what is remembered.
        body: what to find.
        is_heard: whether the program of a session runs.
    """
    found = sorted(state.sessions.values(), key=_place, reverse=True)
    found = [one for one in found if _fits(one, body, is_heard)]
    if body.cursor is not None:
        after = body.cursor.last_created_at, body.cursor.last_session_id
        found = [one for one in found if _place(one) < after]
    page = found[: body.limit]
    runs: dict[str, list[Run]] = {one.id: [] for one in page}
    for run in state.runs.values():
        if run.session_id in runs:
            runs[run.session_id].append(run)
    answer: dict[str, Any] = {
        "sessions": [_summary(state, one, runs[one.id], is_heard(one.id)) for one in page]
    }
    if len(found) > len(page):
        last = page[-1]
        answer["next_cursor"] = {
            "last_created_at": moment(last.time),
            "last_session_id": last.id,
        }
    return answer


def _place(session: SessionRecord) -> tuple[datetime, str]:
    """Where a session stands in time; a cursor has this to the same digit."""
    return datetime.fromtimestamp(session.time, timezone.utc), session.id


def _fits(session: SessionRecord, body: bodies.Search, is_heard: Callable[[str], bool]) -> bool:
    said = as_text(session.user_metadata) or {}
    status = _status(session, is_heard(session.id))
    owners = body.owner.owner_urns if body.owner.type == "user" else None
    return (
        _is_named(session, body)
        and (body.project_ids is None or session.project_id in body.project_ids)
        and all(said.get(name) == value for name, value in body.user_metadata.items())
        and (owners is None or OWNER in owners)
        and (body.statuses is None or any(_is(status, asked) for asked in body.statuses))
    )


def _is_named(session: SessionRecord, body: bodies.Search) -> bool:
    if body.session_id is None and body.display_name is None:
        return True
    words = (body.display_name or "").lower().split()
    name = (session.display_name or "").lower()
    return session.id == body.session_id or (bool(words) and all(word in name for word in words))


def _is(status: Mapping[str, Any] | None, asked: bodies.Status) -> bool:
    if status is None or status["type"] != asked.type:
        return False
    return asked.reasons is None or status.get("reason", {}).get("type") in asked.reasons


def _status(session: SessionRecord, is_heard: bool) -> dict[str, Any] | None:
    """How a session is; None where its program neither ended nor was heard of lately."""
    if session.ended is not None:
        how = {"type": session.ended["reason"]}
        return {"type": "client_finished", "reason": how, "detail": session.ended["detail"]}
    return {"type": "active"} if is_heard else None


def _summary(
    state: State, session: SessionRecord, runs: list[Run], is_heard: bool
) -> dict[str, Any]:
    checkpoints = [checkpoint for run in runs for checkpoint in state.checkpoints(run)]
    return {
        "session_id": session.id,
        "created_at": moment(session.time),
        "owner": OWNER,
        "project_id": session.project_id or "",
        "status": _status(session, is_heard),
        "checkpoints_count": len(checkpoints),
        "display_name": session.display_name,
        "user_metadata": as_text(session.user_metadata),
        "checkpoint_storage_bytes": sum(checkpoint.size for checkpoint in checkpoints),
    }
