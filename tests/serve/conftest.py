"""A real server in a process of its own, with a tiny model."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crucible_kitchen.testing.tiny_model import tiny_llama


@dataclass
class Server:
    """A running server."""

    model: str
    state_dir: Path
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    url: str = ""
    key: str = ""

    def start(self) -> None:
        command = [sys.executable, "-m", "crucible_kitchen.cli", "serve", "--port", "0"]
        command += ["--model", self.model, "--state-dir", str(self.state_dir), *self.arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = [self.process.stdout.readline().strip() for _ in range(2)]
        values = dict(line.removeprefix("export ").split("=", 1) for line in said)
        self.url, self.key = values["TINKER_BASE_URL"], values["TINKER_API_KEY"]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> str:
    return str(tiny_llama(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="session")
def server(tmp_path_factory, tiny_folder) -> Iterator[Server]:
    pytest.importorskip("uvicorn", reason="pip install 'crucible-kitchen[serve]'")
    one = Server(tiny_folder, tmp_path_factory.mktemp("state"))
    one.start()
    yield one
    one.kill()
