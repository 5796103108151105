"""A response is sent whole: its head with its body, not before it."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


class OneWriteProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol over `OneWrite`."""

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.BaseProtocol.connection_made`."""
        super().connection_made(OneWrite(transport))


class OneWrite:
    """A transport that keeps the head of a response until its body comes.

    Each write is a call of the system, and wakes a client that then finds half of what it waits
    for; on the loopback the two cost more than making the answer. What this server sends has a
    body in one piece, if an empty one.

    Args:
        transport: of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, or keep what is a head."""
        is_head = data.endswith(b"\r\n\r\n") and data.startswith(b"HTTP/1.1 ")
        if is_head and not self._head and not data.startswith(b"HTTP/1.1 100 "):
            self._head = data
            return
        self._transport.write(self._head + data)
        self._head = b""

    def close(self) -> None:
        """Send what is kept, and close."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()
