"""Who may ask, and how much: what is checked of a request before its body is read."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_KEY_HEADER: Final = b"x-api-key"
# What needs no key: a sign of life, and addresses that carry a right of their own.
_OPEN: Final = ("/api/v1/healthz", "/api/v1/downloads/")


class Admission:
    """Refuses requests without a key, without a length, or longer than allowed.

    It hands messages on as they are: to wrap each request and its answer, as Starlette's middleware
    of functions does, costs more than all the rest of the server's own work.

    Args:
        app: what is asked next.
        keys: what a client may send; only their hashes are kept. None at all: any key will do.
        max_body_bytes: most bytes of a request.
    """

    def __init__(self, app: ASGIApp, *, keys: Iterable[str], max_body_bytes: int) -> None:
        self._app, self._max_body_bytes = app, max_body_bytes
        self._hashes = [_hash(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or let the request through."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = _hash(headers.get(_KEY_HEADER, b""))
        known = any(hmac.compare_digest(given, one) for one in self._hashes)
        if self._hashes and not known and not scope["path"].startswith(_OPEN):
            return _answer(401, "the header X-API-Key must hold a key of this server")
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers:
            return _answer(411, "a request must say its length")
        if not length.isdigit() or int(length) > self._max_body_bytes:
            return _answer(413, f"a request must have at most {self._max_body_bytes} bytes")
        return None


def _answer(status: int, said: str) -> JSONResponse:
    return JSONResponse({"detail": said}, status)


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
