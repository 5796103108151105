"""An older Tinker SDK against the server, by itself and under this package's adapters.

`CRUCIBLE_OLDER_TINKER` names a Python that has one; 0.25.0 has been tried.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Is given the name of a model that the server has; prints what it got.
PROGRAM = """
import json, sys
import tinker
types, service = tinker.types, tinker.ServiceClient()
client = service.create_lora_training_client(base_model=sys.argv[1], rank=4, seed=1)
inputs = {
    "target_tokens": types.TensorData(data=[6, 7], dtype="int64", shape=[2]),
    "weights": types.TensorData(data=[1.0, 1.0], dtype="float32", shape=[2]),
}
datum = types.Datum(model_input=types.ModelInput.from_ints([5, 6]), loss_fn_inputs=inputs)
def step(of):
    loss = of.forward_backward([datum], "cross_entropy").result().metrics["loss:sum"]
    of.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    return loss
losses = [step(client) for _ in range(2)]
path = client.save_state("two").result().path
losses.append(step(client))
again = step(service.create_training_client_from_state_with_optimizer(path))
drawn = client.save_weights_and_get_sampling_client().sample(
    types.ModelInput.from_ints([5]), 1, types.SamplingParams(max_tokens=3)
).result()
listed = service.create_rest_client().list_checkpoints(client.model_id).result().checkpoints
print(json.dumps({
    "losses": losses, "again": again, "tokens": len(drawn.sequences[0].tokens),
    "listed": [one.tinker_path for one in listed if one.checkpoint_type == "training"],
    "path": path,
}))
"""


@pytest.fixture
def python():
    """One that has an older SDK."""
    named = os.environ.get("CRUCIBLE_OLDER_TINKER")
    if named is None:
        pytest.skip("CRUCIBLE_OLDER_TINKER must name a Python with an older tinker")
    return named


def test_an_older_sdk_trains_saves_goes_on_and_draws(server, python):
    environment = {**os.environ, "TINKER_BASE_URL": server.url, "TINKER_API_KEY": server.key}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", PROGRAM, server.model],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["losses"][0] > got["losses"][1] > got["losses"][2]
    assert got["again"] == pytest.approx(got["losses"][2], rel=1e-6)
    assert got["tokens"] == 3
    assert got["listed"] == [got["path"]]


def test_the_adapters_keep_their_contracts_on_an_older_sdk(python, tmp_path):
    """In this environment, with the older SDK and what it alone needs before the rest."""
    where = "import pathlib, tinker; print(pathlib.Path(tinker.__file__).parent.parent)"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)
    for part in Path(found.stdout.strip()).iterdir():
        name = part.name.partition(".")[0]
        is_its_own = part.name.startswith("tinker")
        if is_its_own or (name.isidentifier() and importlib.util.find_spec(name) is None):
            (tmp_path / part.name).symlink_to(part)
    run = (
        "import importlib.util as util, sys, pytest; print(util.find_spec('tinker').origin); "
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    tests = str(Path(__file__).with_name("test_tinker.py"))
    contracts = "TestTraining or TestSampling or TestCompleter or recipe or equal_losses"
    done = subprocess.run(
        [sys.executable, "-c", run, "-q", "-p", "no:cacheprovider", tests, "-k", contracts],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
    assert done.stdout.startswith(str(tmp_path)), "another SDK was tested"
