"""A key is in no error, event, log or file of a run, whichever adapter was given it."""

from __future__ import annotations

import http.server
import logging
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import crucible_kitchen as ck
from crucible_kitchen import ports
from crucible_kitchen.errors import PortError, StageError

# Nothing about it looks like a key; the libraries ask for 40 characters and one for a beginning.
CANARY = "tml-canarybird0123456789canarybird0123456"


class Echoing(http.server.BaseHTTPRequestHandler):
    """Refuses everything, and repeats all that it was told, as some servers do."""

    protocol_version = "HTTP/1.1"

    def refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = " ".join(f"{name}: {value};" for name, value in self.headers.items())
        body = f'{{"error_code": "PERMISSION_DENIED", "message": "bad key in {said}"}}'.encode()
        self.send_response(401)
        self.send_header("X-Error-Message", said)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = refuse  # noqa: N815 - the base class looks for these

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echoing)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's libraries ask the server above."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{address}")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", "")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"http://{address}/" + template.lstrip("/")
    )


@ck.stage
def answer(*, completer: ports.Completer) -> None:
    completer.complete([{"role": "user", "content": "hello"}])


@ck.stage
def load(*, dataset_store: ports.DatasetStore) -> None:
    dataset_store.load_dataset("org/private")


@ck.stage
def fetch(*, hub_client: ports.HubClient) -> None:
    hub_client.download("org/private", "config.json")


@ck.stage
def keep(*, blob_store: ports.BlobStore) -> None:
    blob_store.write("a", b"1")


@ck.stage
def note(*, metrics_store: ports.MetricsStore) -> None:
    metrics_store.record("run", "loss", 1.0)


@ck.stage
def register(*, model_registry: ports.ModelRegistry) -> None:
    model_registry.register("m", "1", "file:///m")


@ck.stage
def train(*, training_client: ports.TrainingClient) -> None:
    training_client.start_session({"model": "m"})


@ck.stage
def draw(*, sampling_client: ports.SamplingClient) -> None:
    sampling_client.start_session({"model": "m"})


# (library that must be there, stage, system, options, environment); {at} is the server's address.
CASES: dict[str, tuple[str | None, Any, str, dict[str, Any], dict[str, str]]] = {
    "openai": (None, answer, "openai", {"model": "m", "base_url": "http://{at}/v1"}, {}),
    "openai-env": (
        None,
        answer,
        "openai",
        {"model": "m", "base_url": "http://{at}/v1"},
        {"OPENAI_API_KEY": CANARY},
    ),
    "datasets": ("datasets", load, "huggingface", {"token": CANARY}, {}),
    "datasets-env": ("datasets", load, "huggingface", {}, {"HF_TOKEN": CANARY}),
    "hub-env": (None, fetch, "huggingface", {}, {"HF_TOKEN": CANARY}),
    "s3": (
        "s3fs",
        keep,
        "fsspec",
        {"url": "s3://b/x", "endpoint_url": "http://{at}", "key": CANARY, "secret": CANARY},
        {},
    ),
    "http-url": ("aiohttp", keep, "fsspec", {"url": f"http://cook:{CANARY}@{{at}}/x"}, {}),
    "mlflow-env": (
        "mlflow",
        note,
        "mlflow",
        {"tracking_uri": "http://{at}"},
        {"MLFLOW_TRACKING_TOKEN": CANARY},
    ),
    "mlflow-url": (
        "mlflow",
        register,
        "mlflow",
        {"tracking_uri": f"http://cook:{CANARY}@{{at}}"},
        {},
    ),
    "wandb-env": (
        "wandb",
        note,
        "wandb",
        {"mode": "online", "dir": "logs"},
        {"WANDB_API_KEY": CANARY, "WANDB_BASE_URL": "http://{at}"},
    ),
    "tinker": ("tinker", train, "tinker", {"base_url": "http://{at}", "api_key": CANARY}, {}),
    "tinker-env": (
        "tinker",
        draw,
        "tinker",
        {"base_url": "http://{at}"},
        {"TINKER_API_KEY": CANARY},
    ),
}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("case", list(CASES))
def test_a_refused_key_is_told_and_never_shown(
    case: str,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    library, stage, system, options, environment = CASES[case]
    if library is not None:
        pytest.importorskip(library, reason=f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", **environment}.items():
        monkeypatch.setenv(name, value.format(at=address))
    given = {
        name: value.format(at=address) if isinstance(value, str) else value
        for name, value in options.items()
    }
    if case == "openai":
        given["api_key"] = CANARY
    (port,) = stage.ports
    heard: list[ck.Event] = []
    caplog.set_level(logging.INFO)
    with pytest.raises(StageError) as caught:
        ck.run(
            ck.workflow("ask")[stage],
            adapters={port: {"name": system, **given}},
            run_dir=tmp_path / "run",
            handlers=("console", "jsonl", heard.append),
        )
    assert isinstance(caught.value.__cause__, PortError)
    told = "".join(traceback.format_exception(caught.value))
    assert any(event.kind == "stage.error" for event in heard)
    shown = [told, repr(heard), caplog.text, *capfd.readouterr()]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert CANARY not in "".join(shown)
    for file in files:
        assert CANARY.encode() not in file.read_bytes(), file
