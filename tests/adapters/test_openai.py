"""The HTTP completer against a server process on loopback, well behaved and not."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters.openai import Completer
from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.testing import CompleterContract

KEY = "sk-topsecret-0123456789"
HELLO = [{"role": "user", "content": "Say hello."}]

SERVER = '''
"""Repeats the last message, a word a token; what the model is called says how it misbehaves."""
import http.server, json, sys

BEHAVIOUR = {
    "refuse": (401, "Incorrect API key provided: {key}"),
    "busy": (429, "slow down"),
    "page": (200, "<html>the wrong port</html>"),
    "empty": (200, "{{}}"),
    "error": (200, '{{"error": {{"message": "no memory for {key}"}}}}'),
    "odd": (200, '{{"choices": [{{"message": {{"content": "x"}}, "finish_reason": "tired"}}]}}'),
}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key, model = self.headers.get("Authorization", ""), body["model"]
        if model in BEHAVIOUR:
            status, text = BEHAVIOUR[model]
            self.answer(status, text.format(key=key))
        elif model == "elsewhere":
            self.answer(307, "", Location="/other")
        elif model == "show":
            self.answer(200, self.whole(json.dumps({"path": self.path, "key": key, "body": body})))
        else:
            words = body["messages"][-1]["content"].split(" ")
            kept = words[: body.get("max_tokens", body.get("max_completion_tokens"))]
            reason = "stop" if kept == words else "length"
            if body.get("stream"):
                self.stream(kept, reason, model)
            else:
                self.answer(200, self.whole(" ".join(kept), reason, len(kept)))

    def whole(self, text, reason="stop", count=1):
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 3, "completion_tokens": count}
        choice = {"message": message, "finish_reason": reason}
        return json.dumps({"choices": [choice], "usage": usage})

    def answer(self, status, text, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def stream(self, words, reason, model):
        self.send_response(200)
        self.end_headers()
        for number, word in enumerate(words):
            self.event({"delta": {"content": " " * (number > 0) + word}, "finish_reason": None})
        if model != "broken":
            self.event({"delta": {}, "finish_reason": reason})
            self.wfile.write(b": a comment\\n\\ndata: [DONE]\\n\\n")

    def event(self, choice):
        self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\\n\\n")

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
'''


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    script: Path = tmp_path_factory.mktemp("server") / "server.py"
    script.write_text(SERVER)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.kill()


@pytest.fixture
def model(url: str) -> Any:
    return lambda name: Completer(name, base_url=url, api_key=KEY, timeout=10)


class TestCompleter(CompleterContract):
    @pytest.fixture
    def adapter(self, model: Any) -> Completer:
        completer: Completer = model("echo")
        return completer


def test_what_is_asked_is_what_was_meant(model: Any) -> None:
    call = {"name": "add", "arguments": {"a": 1}, "id": "c1"}
    messages = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call], "thinking": "hm"},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
    ]
    answer = model("show").complete(messages, top_k=5, seed=7, stop=["END"])
    seen = json.loads(answer.text)
    assert (seen["path"], seen["key"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    turns = seen["body"].pop("messages")
    assert turns[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert "thinking" not in turns[1]
    assert seen["body"] == {
        "model": "show",
        "max_tokens": 1024,
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 5,
        "seed": 7,
        "stop": ["END"],
    }


def test_newer_models_get_their_own_field(url: str) -> None:
    completer = Completer("show", base_url=url, api_key="", length_field="max_completion_tokens")
    seen = json.loads(completer.complete(HELLO).text)
    assert seen["body"]["max_completion_tokens"] == 1024
    assert "max_tokens" not in seen["body"]
    assert seen["key"] == ""


def test_key_and_server_come_from_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    seen = json.loads(Completer("show").complete(HELLO).text)
    assert seen["key"] == "Bearer sk-from-the-environment"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("refuse", "answered 401: Incorrect .*; set OPENAI_API_KEY, or give api_key"),
        ("busy", r"answered 429: slow down; retrying\(adapter\)"),
        ("elsewhere", "answered 307"),
        ("page", "must answer in JSON, got '<html>"),
        ("empty", "is no chat completion"),
        ("error", "failed: .*no memory"),
        ("odd", "finish_reason must be one of"),
    ],
)
def test_a_server_that_misbehaves_is_told_without_the_key(
    model: Any, behaviour: str, said: str
) -> None:
    completer = model(behaviour)
    with pytest.raises(PortError, match=said) as caught:
        completer.complete(HELLO)
    shown = "".join(traceback.format_exception(caught.value)) + repr(completer)
    assert "topsecret" not in shown


def test_a_stream_that_breaks_off_is_an_error(model: Any) -> None:
    stream = model("broken").stream_complete(HELLO)
    assert next(stream).text == "Say"
    with pytest.raises(PortError, match="broke its answer off"):
        list(stream)


def test_no_server_is_told(url: str) -> None:
    with pytest.raises(PortError, match=r"could not reach http://127.0.0.1:9: .*refused"):
        Completer("echo", base_url="http://127.0.0.1:9", api_key=KEY).complete(HELLO)


@pytest.mark.parametrize("url", ["ftp://x", "localhost:80", "file:///etc/passwd"])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url must begin with http"):
        Completer("echo", base_url=url)


def test_wrong_options_are_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="stop must be text"):
        model("echo").complete(HELLO, stop=[1, 2])
    with pytest.raises(ConfigError, match="length_field"):
        Completer("m", length_field="tokens")
    with pytest.raises(ConfigError, match="parallel"):
        Completer("m", parallel=0)
    with pytest.raises(PortError, match="at least one message"):
        model("echo").complete([])
