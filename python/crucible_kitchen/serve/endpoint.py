"""An endpoint that reads its request once, and writes its answer once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.requests import Request

from .bodies import Body

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class Endpoint(APIRoute):
    """A route that FastAPI describes as any other and mostly does not run.

    What it does for a request (a graph of dependencies, stacks of what to close in the end, a pass
    over the body and one over the answer for each of JSON and pydantic) costs more than the rest of
    this server together. A function whose one argument is a `Body`, or the request itself, needs
    none of it.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        hints = get_type_hints(endpoint)
        hints.pop("return", None)
        self._kinds: list[Any] = list(hints.values())
        self._own = all(
            isinstance(kind, type) and issubclass(kind, (Body, Request)) for kind in self._kinds
        )

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if not self._own or scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive)
        answer = await self.endpoint(*[await _read(kind, request) for kind in self._kinds])
        response = answer if isinstance(answer, Response) else JSONResponse(answer)
        await response(scope, receive, send)


async def _read(kind: type, request: Request) -> Any:
    """The argument of a function.

    Raises:
        RequestValidationError: the body is not what it must be.
    """
    if not issubclass(kind, Body):
        return request
    raw = await request.body()
    # A page of another site can send any text from a browser, but not under this name.
    named = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if named != "application/json":
        said = f"the header content-type must be application/json, got {named!r}"
        raise RequestValidationError([{"type": "media_type", "loc": ("header",), "msg": said}])
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**one, "loc": ("body", *one["loc"])} for one in found], body=raw
        ) from None
