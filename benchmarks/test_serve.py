"""One step through the Tinker SDK at a server without a model: ``pytest benchmarks/test_serve.py``.

The SDK and the server are processes of their own on the loopback; `extra_info` says how much of a
step is processor time of the SDK's process, which no server can take away.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

tinker = pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[serve,tinker]'")
pytest.importorskip("uvicorn", reason="pip install 'crucible-kitchen[serve,tinker]'")

# The SDK closes its sockets when its loop ends.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The SDK's client of a dry server."""
    state: Path = tmp_path_factory.mktemp("state")
    command = [sys.executable, "-m", "crucible_kitchen.cli", "serve", "--model", "noop"]
    command += ["--port", "0", "--state-dir", str(state)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(2)]
        url, key = (line.partition("=")[2] for line in lines)
        client = tinker.ServiceClient(base_url=url, api_key=key)
        yield client
        client.close("success").result()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del client
            gc.collect()
    finally:
        process.kill()
        process.communicate()


def test_a_step(service: Any, benchmark: Any) -> None:
    """`forward_backward` and `optim_step`, both on their way before either is awaited."""
    client = service.create_lora_training_client("noop", rank=4, seed=1).result()
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints([5]),
        loss_fn_inputs={"target_tokens": [6], "weights": [1.0]},
    )
    spent: list[float] = []

    def step() -> None:
        began = time.process_time()
        asked = client.forward_backward([datum], "cross_entropy")
        stepped = client.optim_step(tinker.AdamParams(learning_rate=1e-3))
        assert asked.result().metrics["loss:sum"] > 0
        assert stepped.result().metrics["step:max"] > 0
        spent.append(time.process_time() - began)

    benchmark.pedantic(step, rounds=200, warmup_rounds=20)
    benchmark.extra_info["sdk_processor_ms"] = 1e3 * sorted(spent)[len(spent) // 2]
