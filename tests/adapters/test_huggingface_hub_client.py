"""The Hugging Face hub without it: a cache made by hand, and a hub that answers with errors."""

from __future__ import annotations

import http.server
import socket
import threading
import time

import huggingface_hub
import pytest

from crucible_kitchen.adapters.huggingface import DatasetStore, HubClient
from crucible_kitchen.errors import PortError
from crucible_kitchen.testing import HubClientContract

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path):
    """The layout of `huggingface_hub`: a ref names a commit, whose folder links to blobs."""
    repository = tmp_path / "hub" / "models--org--model"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "blobs", repository / "refs", snapshot / "sub"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for number, name in enumerate(("config.json", "model.safetensors", "sub/notes.txt")):
        (repository / "blobs" / str(number)).write_text(name)
        (snapshot / name).symlink_to(repository / "blobs" / str(number))
    return tmp_path / "hub"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
class TestHuggingFaceHubClient(HubClientContract):
    uploads = False

    @pytest.fixture
    def adapter(self, cache):
        return HubClient(cache_dir=str(cache))


@pytest.mark.usefixtures("offline")
def test_offline_lists_what_is_cached(cache):
    files = HubClient(cache_dir=str(cache)).list_files("org/model")
    assert files == ["config.json", "model.safetensors", "sub/notes.txt"]


@pytest.mark.usefixtures("offline")
def test_a_bad_name_is_a_port_error(cache):
    with pytest.raises(PortError, match="could not fetch a of not//a//name"):
        HubClient(cache_dir=str(cache)).download("not//a//name", "a")


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers everything with 401, and repeats the token in its answer."""

    status, code = 401, ""

    def refuse(self):
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("X-Error-Message", f"bad token {self.headers.get('Authorization')}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = refuse  # noqa: N815 - the base class looks for these names

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing_hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(
        huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_topsecrettoken")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("refusing_hub")
@pytest.mark.parametrize("method", ["list_files", "snapshot", "upload"])
def test_a_refusal_never_shows_the_token(method, tmp_path):
    hub = HubClient(cache_dir=str(tmp_path / "empty"))
    arguments = [str(tmp_path)] if method == "upload" else []
    with pytest.raises(PortError, match="org/model") as caught:
        getattr(hub, method)("org/model", *arguments)
    assert "topsecret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.usefixtures("refusing_hub")
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "", "the hub refused the token; log in by `hf auth login`, or set HF_TOKEN"),
        (401, "RepoNotFound", "no such repository, or it is private and may not be read"),
        (403, "GatedRepo", "grant access on its page"),
    ],
)
@pytest.mark.parametrize("port", ["hub_client", "dataset_store"])
def test_a_private_repository_is_told(port, status, code, said, tmp_path, monkeypatch):
    monkeypatch.setattr(Refusing, "status", status)
    monkeypatch.setattr(Refusing, "code", code)
    if port == "hub_client":
        ask = HubClient(cache_dir=str(tmp_path)).snapshot
    else:
        pytest.importorskip("datasets", reason="pip install 'crucible-kitchen[huggingface]'")
        ask = DatasetStore(cache_dir=str(tmp_path)).load_dataset
    with pytest.raises(PortError, match=f"{port}: could not .*org/private.*{said}"):
        ask("org/private")


def test_a_hub_that_does_not_answer_is_told_at_once(tmp_path, monkeypatch, caplog):
    # Nobody listens at a port that was just given back.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(PortError, match=r"org/model: it is not in the cache, .* gave no answer"):
        HubClient(cache_dir=str(tmp_path)).list_files("org/model")
    assert time.monotonic() - began < 5
    assert caplog.text == ""
