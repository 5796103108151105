"""The protocol's endpoints on what was trained: runs, checkpoints, sessions."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request

from . import bodies
from .answers import checkpoint_answer, run_answer, session_answer, storage_answer
from .copies import copy_weights
from .kitchen import Kitchen
from .search import search_sessions
from .state import Checkpoint, Refused, Run

# Whose records are asked for: all of a server's have one owner.
Scope = Literal["owned", "accessible"]
# Of a request to copy: what makes it one where it comes twice, and a right to another's weights.
_KEY: Final = "x-idempotency-key"
_TOKEN: Final = "x-tinker-weights-access-token"

Count = Annotated[int, Query(ge=0, le=1_000_000)]


def add_records(router: APIRouter, kitchen: Kitchen) -> None:
    """What was trained, and its checkpoints."""
    state = kitchen.state

    def checkpoint_of(run_id: str, kind: str, name: str) -> tuple[Run, Checkpoint]:
        return state.find(f"tinker://{run_id}/{kind}/{name}")

    @router.get("/training_runs")
    async def runs(
        limit: Count = 20,
        offset: Count = 0,
        access_scope: Scope = "owned",
        project_id: str | None = None,
    ) -> dict[str, Any]:
        newest = sorted(state.runs.values(), key=lambda run: -run.time)
        if project_id is not None:
            newest = [r for r in newest if state.session(r.session_id).project_id == project_id]
        shown = [run_answer(run, state.checkpoints(run)) for run in newest[offset : offset + limit]]
        return {"training_runs": shown, "cursor": _cursor(offset, limit, len(newest))}

    @router.get("/training_runs/{run_id}")
    async def run(run_id: str, access_scope: Scope = "owned") -> dict[str, Any]:
        one = state.run(run_id)
        return run_answer(one, state.checkpoints(one))

    @router.get("/training_runs/{run_id}/checkpoints")
    async def checkpoints(run_id: str) -> dict[str, Any]:
        one = state.run(run_id)
        return {"checkpoints": [checkpoint_answer(one, c) for c in state.checkpoints(one)]}

    @router.delete("/training_runs/{run_id}/checkpoints/{kind}/{name}")
    async def delete(run_id: str, kind: str, name: str) -> dict[str, Any]:
        state.delete(*checkpoint_of(run_id, kind, name))
        return {}

    @router.post("/training_runs/{run_id}/checkpoints/{kind}/{name}/publish")
    async def publish(run_id: str, kind: str, name: str) -> dict[str, Any]:
        return _changed(kitchen, checkpoint_of(run_id, kind, name), public=True)

    @router.delete("/training_runs/{run_id}/checkpoints/{kind}/{name}/publish")
    async def unpublish(run_id: str, kind: str, name: str) -> dict[str, Any]:
        return _changed(kitchen, checkpoint_of(run_id, kind, name), public=False)

    @router.put("/training_runs/{run_id}/checkpoints/{kind}/{name}/ttl")
    async def ttl(run_id: str, kind: str, name: str, body: bodies.Ttl) -> dict[str, Any]:
        expires = None if body.ttl_seconds is None else time.time() + body.ttl_seconds
        return _changed(kitchen, checkpoint_of(run_id, kind, name), expires=expires)

    @router.get("/checkpoints")
    async def all_checkpoints(limit: Count = 100, offset: Count = 0) -> dict[str, Any]:
        pairs = [(run, c) for run in list(state.runs.values()) for c in state.checkpoints(run)]
        pairs.sort(key=lambda pair: -pair[1].time)
        shown = [checkpoint_answer(*pair) for pair in pairs[offset : offset + limit]]
        return {"checkpoints": shown, "cursor": _cursor(offset, limit, len(pairs))}

    @router.post("/copy_weights")
    async def copy(body: bodies.Copy, request: Request) -> dict[str, str]:
        if _TOKEN in request.headers:
            raise Refused("copy_weights: this server does not support weights_access_token")
        return {"tinker_path": copy_weights(state, body, request.headers.get(_KEY))}

    @router.get("/billing/usage/checkpoints/current")
    async def storage(project_id: str | None = None) -> dict[str, Any]:
        pairs = [(run, c) for run in list(state.runs.values()) for c in state.checkpoints(run)]
        owned = [(state.session(run.session_id).project_id, c) for run, c in pairs]
        return storage_answer(owned, project_id)

    @router.post("/weights_info")
    async def weights_info(body: bodies.Path) -> dict[str, Any]:
        run, _ = state.find(body.tinker_path)
        return {
            "base_model": run.base_model,
            "is_lora": True,
            "lora_rank": run.rank,
            "train_unembed": run.train_unembed,
            "train_mlp": run.train_mlp,
            "train_attn": run.train_attn,
            "optimizer_config": {"type": "adamw"},
        }

    @router.get("/sessions")
    async def sessions(
        limit: Count = 20, offset: Count = 0, access_scope: Scope = "owned"
    ) -> dict[str, Any]:
        newest = sorted(state.sessions.values(), key=lambda session: -session.time)
        return {"sessions": [one.id for one in newest[offset : offset + limit]]}

    @router.post("/sessions/search")
    async def search(body: bodies.Search) -> dict[str, Any]:
        return search_sessions(state, body, kitchen.models.is_heard)

    @router.put("/sessions/{session_id}/project")
    async def assign(session_id: str, body: bodies.Project) -> dict[str, Any]:
        one = state.session(session_id)
        one.project_id = body.project_id
        state.save(one)
        return {}

    @router.get("/sessions/{session_id}")
    async def session(session_id: str, access_scope: Scope = "owned") -> dict[str, Any]:
        one = state.session(session_id)
        runs = [run.id for run in state.runs.values() if run.session_id == one.id]
        return session_answer(one, runs)


def _changed(kitchen: Kitchen, found: tuple[Run, Checkpoint], **changes: Any) -> dict[str, Any]:
    run, checkpoint = found
    for name, value in changes.items():
        setattr(checkpoint, name, value)
    kitchen.state.save(run)
    return {}


def _cursor(offset: int, limit: int, total: int) -> dict[str, int]:
    return {"offset": offset, "limit": limit, "total_count": total}
