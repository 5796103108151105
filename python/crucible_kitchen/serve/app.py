"""The protocol's endpoints over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from crucible_kitchen.errors import CrucibleError

from . import bodies, wire
from .admission import Admission
from .answers import checkpoint_answer, run_answer
from .kitchen import Kitchen
from .state import Checkpoint, NotFound, Run, moment
from .work import Busy, Promise

# Clients wait 45 s for an answer.
_PATIENCE_S: Final = 30.0

# The body of a request in the protocol's binary form, for the description of the server.
_BINARY: Final = {
    "requestBody": {
        "required": True,
        "content": {wire.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


def make_app(
    kitchen: Kitchen, *, api_keys: Iterable[str] = (), max_body_bytes: int = 64 << 20
) -> FastAPI:
    """The server.

    Args:
        kitchen: does the work.
        api_keys: what a client may send as its key; only their hashes are kept. None at all: any
            key will do.
        max_body_bytes: most bytes of a request.
    """
    app = FastAPI(title="crucible serve", docs_url=None, redoc_url=None)
    app.state.kitchen = kitchen
    app.add_middleware(Admission, keys=api_keys, max_body_bytes=max_body_bytes)

    @app.exception_handler(CrucibleError)
    async def refuse(_: Request, error: CrucibleError) -> JSONResponse:
        status = 404 if isinstance(error, NotFound) else 429 if isinstance(error, Busy) else 400
        return _refusal(status, str(error))

    @app.exception_handler(ValueError)
    @app.exception_handler(TypeError)
    async def malformed(_: Request, error: Exception) -> JSONResponse:
        return _refusal(422, str(error))

    for router in (_programs(kitchen), _models(kitchen), _records(kitchen)):
        app.include_router(router, prefix="/api/v1")
    return app


def _programs(kitchen: Kitchen) -> APIRouter:
    """Sessions, what the server can do, and results."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.post("/client/config")
    async def config() -> dict[str, Any]:
        return {}

    @router.post("/telemetry")
    async def telemetry() -> dict[str, str]:
        return {"status": "accepted"}

    @router.get("/get_server_capabilities")
    async def capabilities() -> dict[str, Any]:
        models = [
            {
                "model_name": name,
                "max_context_length": kitchen.catalogue.max_sequence,
                "trainable": True,
                "sampleable": True,
            }
            for name in kitchen.catalogue.models
        ]
        return {"supported_models": models}

    @router.post("/create_session")
    async def create_session(body: bodies.CreateSession) -> dict[str, Any]:
        record = kitchen.create_session(body)
        return {"type": "create_session", "session_id": record.id}

    @router.post("/session_heartbeat")
    async def heartbeat(body: bodies.OfSession) -> dict[str, str]:
        kitchen.state.session(body.session_id)
        return {"type": "session_heartbeat"}

    @router.post("/sessions/{session_id}/finish")
    async def finish(session_id: str) -> dict[str, Any]:
        kitchen.finish_session(session_id)
        return {}

    @router.post("/retrieve_future")
    async def retrieve(body: bodies.Retrieve) -> Response:
        return await _answer(kitchen.work.get(body.request_id))

    return router


def _models(kitchen: Kitchen) -> APIRouter:
    """Training and drawing: each answers with the id of a result to come."""
    router = APIRouter()

    def promised(promise: Promise, **more: Any) -> dict[str, Any]:
        return {"request_id": promise.id, **more}

    @router.post("/create_model")
    async def create_model(body: bodies.CreateModel) -> dict[str, Any]:
        model_id, promise = kitchen.models.create(body)
        return promised(promise, model_id=model_id)

    @router.post("/load_weights")
    async def load_weights(body: bodies.LoadWeights) -> dict[str, Any]:
        model_id, promise = kitchen.models.load(body)
        return promised(promise, model_id=model_id)

    @router.post("/get_info")
    async def info(body: bodies.OfModel) -> dict[str, Any]:
        return kitchen.models.info(body.model_id)

    @router.post("/forward_backward", openapi_extra=_BINARY)
    async def forward_backward(request: Request) -> dict[str, Any]:
        batch = wire.read_batch(await request.body())
        return promised(kitchen.models.forward_backward(batch), model_id=batch.model_id)

    @router.post("/optim_step")
    async def optim_step(body: bodies.OptimStep) -> dict[str, Any]:
        return promised(kitchen.models.optim_step(body), model_id=body.model_id)

    @router.post("/save_weights")
    async def save_weights(body: bodies.SaveWeights) -> dict[str, Any]:
        return promised(kitchen.models.save(body), model_id=body.model_id)

    @router.post("/save_weights_for_sampler")
    async def save_for_sampler(body: bodies.SaveForSampler) -> dict[str, Any]:
        return promised(kitchen.models.save_for_sampler(body), model_id=body.model_id)

    @router.post("/create_sampling_session")
    async def create_sampler(body: bodies.CreateSampling) -> dict[str, Any]:
        sampler_id = kitchen.samplers.create(body)
        return {"type": "create_sampling_session", "sampling_session_id": sampler_id}

    @router.get("/samplers/{sampler_id}")
    async def sampler(sampler_id: str) -> dict[str, Any]:
        return kitchen.samplers.describe(sampler_id)

    @router.post("/asample")
    async def sample(body: bodies.Sample) -> dict[str, Any]:
        ids, promise = kitchen.samplers.sample(body)
        return promised(promise, sample_sequence_ids=ids)

    return router


def _records(kitchen: Kitchen) -> APIRouter:
    """What was trained, and its checkpoints."""
    router, state = APIRouter(), kitchen.state

    def checkpoint_of(run_id: str, kind: str, name: str) -> tuple[Run, Checkpoint]:
        return state.find(f"tinker://{run_id}/{kind}/{name}")

    @router.get("/training_runs")
    async def runs(limit: int = 20, offset: int = 0) -> dict[str, Any]:
        newest = sorted(state.runs.values(), key=lambda run: -run.time)
        shown = [run_answer(run, state.checkpoints(run)) for run in newest[offset : offset + limit]]
        return {"training_runs": shown, "cursor": _cursor(offset, limit, len(newest))}

    @router.get("/training_runs/{run_id}")
    async def run(run_id: str) -> dict[str, Any]:
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
    async def all_checkpoints(limit: int = 100, offset: int = 0) -> dict[str, Any]:
        pairs = [(run, c) for run in list(state.runs.values()) for c in state.checkpoints(run)]
        pairs.sort(key=lambda pair: -pair[1].time)
        shown = [checkpoint_answer(*pair) for pair in pairs[offset : offset + limit]]
        return {"checkpoints": shown, "cursor": _cursor(offset, limit, len(pairs))}

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
    async def sessions(limit: int = 20, offset: int = 0) -> dict[str, Any]:
        newest = sorted(state.sessions.values(), key=lambda session: -session.time)
        return {"sessions": [one.id for one in newest[offset : offset + limit]]}

    @router.get("/sessions/{session_id}")
    async def session(session_id: str) -> dict[str, Any]:
        one = state.session(session_id)
        return {
            "training_run_ids": [r.id for r in state.runs.values() if r.session_id == one.id],
            "sampler_ids": list(one.samplers),
            "created_at": moment(one.time),
            "user_metadata": one.user_metadata,
        }

    return router


def _changed(kitchen: Kitchen, found: tuple[Run, Checkpoint], **changes: Any) -> dict[str, Any]:
    run, checkpoint = found
    for name, value in changes.items():
        setattr(checkpoint, name, value)
    kitchen.state.save(run)
    return {}


def _cursor(offset: int, limit: int, total: int) -> dict[str, int]:
    return {"offset": offset, "limit": limit, "total_count": total}


async def _answer(promise: Promise) -> Response:
    """The result as soon as it is there, or the word to ask again."""
    waiting = asyncio.wrap_future(promise.future)
    # A client that gives up must not leave an error that nobody looked at.
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    done, _ = await asyncio.wait([waiting], timeout=_PATIENCE_S)
    if not done:
        again = {"type": "try_again", "request_id": promise.id, "queue_state": "active"}
        return JSONResponse(again)
    error = waiting.exception()
    if error is not None:
        user = isinstance(error, (CrucibleError, TypeError, ValueError))
        return JSONResponse({"error": str(error), "category": "user" if user else "server"})
    result = waiting.result()
    if isinstance(result, bytes):
        return Response(result, media_type=wire.MEDIA_TYPE)
    return JSONResponse(result)


def _refusal(status: int, said: str) -> JSONResponse:
    return JSONResponse({"detail": said}, status)
