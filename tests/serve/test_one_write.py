"""A response goes out in one piece, and nothing of it is lost."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("uvicorn", reason="pip install 'crucible-kitchen[serve]'")

from crucible_kitchen.serve.one_write import OneWrite


class Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.sent, self.closed = [], False

    def write(self, data):
        self.sent.append(data)

    def close(self):
        self.closed = True


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


def test_a_head_waits_for_its_body():
    wire = Wire()
    one = OneWrite(wire)
    for data in (HEAD, b"{}", HEAD, b"", b"HTTP/1.1 100 Continue\r\n\r\n"):
        one.write(data)
    assert wire.sent == [HEAD + b"{}", HEAD, b"HTTP/1.1 100 Continue\r\n\r\n"]
    one.write(HEAD)
    one.close()
    assert wire.sent[-1] == HEAD
    assert wire.closed


def test_a_server_sends_each_answer_whole(server):
    address, _, port = server.url.removeprefix("http://").partition(":")
    asked = b"GET /api/v1/healthz HTTP/1.1\r\nHost: x\r\nX-API-Key: tml-x\r\n\r\n"
    with socket.create_connection((address, int(port)), timeout=30) as connection:
        for _ in range(20):
            connection.sendall(asked)
            got = connection.recv(65_536)
            assert got.startswith(b"HTTP/1.1 200")
            assert got.endswith(b'{"status":"ok"}')
