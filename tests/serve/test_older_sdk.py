"""An older Tinker SDK, in an environment of its own, against the server."""

from __future__ import annotations

import json
import os
import subprocess

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


def test_an_older_sdk_trains_saves_goes_on_and_draws(server):
    """`CRUCIBLE_OLDER_TINKER` names a Python that has one; 0.25.0 has been tried."""
    python = os.environ.get("CRUCIBLE_OLDER_TINKER")
    if python is None:
        pytest.skip("CRUCIBLE_OLDER_TINKER must name a Python with an older tinker")
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
