"""One step through the Tinker SDK at a server without a model: ``pytest benchmarks/test_serve.py``.

The SDK and the server are processes of their own on the loopback. Beside the time of a step, the
processor time of each is printed: that of the SDK's process is what no server can take away.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

tinker = pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[serve,tinker]'")
pytest.importorskip("uvicorn", reason="pip install 'crucible-kitchen[serve,tinker]'")

# The SDK closes its sockets when its loop ends.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Dry(NamedTuple):
    """A dry server's process, and the SDK's client of it."""

    pid: int
    client: Any


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dry]:
    state: Path = tmp_path_factory.mktemp("state")
    command = [sys.executable, "-m", "crucible_kitchen.cli", "serve", "--model", "noop"]
    command += ["--port", "0", "--state-dir", str(state)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(2)]
        url, key = (line.partition("=")[2] for line in lines)
        client = tinker.ServiceClient(base_url=url, api_key=key)
        yield Dry(process.pid, client)
        client.close("success").result()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del client
            gc.collect()
    finally:
        process.kill()
        process.communicate()


def test_a_step(dry: Dry, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`forward_backward` and `optim_step`, both on their way before either is awaited."""
    client = dry.client.create_lora_training_client("noop", rank=4, seed=1).result()
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints([5]),
        loss_fn_inputs={"target_tokens": [6], "weights": [1.0]},
    )
    steps: list[float] = []

    def step() -> None:
        began = time.perf_counter()
        asked = client.forward_backward([datum], "cross_entropy")
        stepped = client.optim_step(tinker.AdamParams(learning_rate=1e-3))
        assert asked.result().metrics["loss:sum"] > 0
        assert stepped.result().metrics["step:max"] > 0
        steps.append(1e3 * (time.perf_counter() - began))

    for _ in range(20):
        step()
    steps.clear()
    began = {"sdk": 1e3 * time.process_time(), "server": _processor_ms(dry.pid)}
    benchmark.pedantic(step, rounds=200)
    ended = {"sdk": 1e3 * time.process_time(), "server": _processor_ms(dry.pid)}
    spent = {name: (ended[name] - began[name]) / len(steps) for name in began}
    benchmark.extra_info.update({f"{name}_processor_ms": value for name, value in spent.items()})
    with capsys.disabled():
        print(
            f"\na step: median {statistics.median(steps):.2f} ms; processor time: "
            f"{spent['sdk']:.2f} ms of the SDK, {spent['server']:.2f} ms of the server"
        )


def _processor_ms(pid: int) -> float:
    """Of a process, in all its threads, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return 1e3 * sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
