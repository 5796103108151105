"""The protocol's endpoints over HTTP."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterable
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse

from crucible_kitchen.errors import CrucibleError

from . import bodies, wire
from .admission import Admission
from .downloads import add_downloads
from .endpoint import Endpoint
from .kitchen import Kitchen
from .records import add_records
from .state import NotFound
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
    router = APIRouter(prefix="/api/v1", route_class=Endpoint)
    # Routes are tried in turn, so those of every step come first.
    add_models(router, kitchen)
    add_programs(router, kitchen)
    add_records(router, kitchen)
    add_downloads(router, kitchen.state)
    app = FastAPI(title="crucible serve", docs_url=None, redoc_url=None, routes=router.routes)
    app.state.kitchen = kitchen
    app.add_middleware(Admission, keys=api_keys, max_body_bytes=max_body_bytes)

    @app.exception_handler(CrucibleError)
    async def refuse(_: Request, error: CrucibleError) -> JSONResponse:
        status = 404 if isinstance(error, NotFound) else 429 if isinstance(error, Busy) else 400
        return _refusal(status, str(error))

    @app.exception_handler(ValueError)
    @app.exception_handler(TypeError)
    async def impossible(_: Request, error: Exception) -> JSONResponse:
        return _refusal(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        found = [{name: one[name] for name in ("loc", "msg", "type")} for one in error.errors()]
        if isinstance(error.body, bytes):
            kitchen.models.skip(error.body, "; ".join(one["msg"] for one in found))
        return JSONResponse({"detail": found}, 422)

    @app.exception_handler(404)
    async def unknown(request: Request, _: Exception) -> JSONResponse:
        said = f"this server has no {request.url.path}"
        kitchen.models.skip(await request.body(), said)
        return _refusal(404, said)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse("".join(_metric(*one) for one in kitchen.metrics().items()))

    return app


def add_programs(router: APIRouter, kitchen: Kitchen) -> None:
    """Sessions, and what the server can do."""

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
                "max_context_length": kitchen.catalogue.longest(name),
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
        kitchen.models.seen(kitchen.state.session(body.session_id).id)
        return {"type": "session_heartbeat"}

    @router.post("/sessions/{session_id}/finish")
    async def finish(session_id: str, body: bodies.Finish | None = None) -> dict[str, Any]:
        kitchen.finish_session(session_id, body or bodies.Finish())
        return {}


def add_models(router: APIRouter, kitchen: Kitchen) -> None:
    """Training and drawing: each answers with the id of a result to come."""

    def promised(promise: Promise, **more: Any) -> dict[str, Any]:
        return {"request_id": promise.id, **more}

    @router.post("/retrieve_future")
    async def retrieve(body: bodies.Retrieve) -> Response:
        promise = kitchen.work.get(body.request_id)
        answer = await _answer(promise)
        if answer.media_type == wire.MEDIA_TYPE:
            kitchen.work.sent(promise, len(answer.body))
        return answer

    @router.post("/forward_backward", openapi_extra=_BINARY)
    async def forward_backward(request: Request) -> dict[str, Any]:
        batch = wire.read_batch(await request.body())
        return promised(kitchen.models.forward_backward(batch), model_id=batch.model_id)

    @router.post("/optim_step")
    async def optim_step(body: bodies.OptimStep) -> dict[str, Any]:
        return promised(kitchen.models.optim_step(body), model_id=body.model_id)

    @router.post("/asample")
    async def sample(body: bodies.Sample) -> dict[str, Any]:
        ids, promise = kitchen.samplers.sample(body)
        return promised(promise, sample_sequence_ids=ids)

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

    @router.post("/save_weights")
    async def save_weights(body: bodies.SaveWeights) -> dict[str, Any]:
        return promised(kitchen.models.save(body), model_id=body.model_id)

    @router.post("/save_weights_for_sampler")
    async def save_for_sampler(body: bodies.SaveForSampler) -> dict[str, Any]:
        return promised(kitchen.models.save_for_sampler(body), model_id=body.model_id)

    @router.post("/save_weights_external")
    async def save_external(body: bodies.SaveExternal) -> dict[str, Any]:
        return promised(kitchen.models.save_external(body), model_id=body.model_id)

    @router.post("/create_sampling_session")
    async def create_sampler(body: bodies.CreateSampling) -> dict[str, Any]:
        sampler_id = kitchen.samplers.create(body)
        return {"type": "create_sampling_session", "sampling_session_id": sampler_id}

    @router.get("/samplers/{sampler_id}")
    async def sampler(sampler_id: str) -> dict[str, Any]:
        return kitchen.samplers.describe(sampler_id)


async def _answer(promise: Promise) -> Response:
    """The result as soon as it is there, or the word to ask again."""
    if not await _done(promise.future, _PATIENCE_S):
        again = {"type": "try_again", "request_id": promise.id, "queue_state": "active"}
        return JSONResponse(again)
    error = promise.future.exception()
    if error is not None:
        user = isinstance(error, (CrucibleError, TypeError, ValueError))
        return JSONResponse({"error": str(error), "category": "user" if user else "server"})
    result = promise.future.result()
    if isinstance(result, bytes):
        return Response(result, media_type=wire.MEDIA_TYPE)
    return JSONResponse(result)


async def _done(future: concurrent.futures.Future[Any], seconds: float) -> bool:
    """Wait for the end of work on another thread: whether it came in time."""
    if future.done():
        return True
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def hand_over(_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(hand_over)
    limit = loop.call_later(seconds, wake)
    try:
        await waiter
    finally:
        limit.cancel()
    return future.done()


def _metric(name: str, value: int) -> str:
    """A line as Prometheus reads it, and one that says whether it only grows."""
    kind = "counter" if name.endswith("_total") else "gauge"
    return f"# TYPE crucible_{name} {kind}\ncrucible_{name} {value}\n"


def _refusal(status: int, said: str) -> JSONResponse:
    return JSONResponse({"detail": said}, status)
