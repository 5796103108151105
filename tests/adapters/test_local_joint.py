"""Sessions over one frozen model: its memory, and passes of several that give each what it has
alone."""

import gc
import os
import shutil
import threading
import weakref

import pytest
import torch

from crucible_kitchen.adapters.local import SamplingClient, TrainingClient
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.worker import Worker

RANKS = (1, 4, 7, 16)


@pytest.fixture
def passes(monkeypatch):
    """How many tokens each pass through a model had, of those that compute losses."""
    seen, hidden = [], CausalModel.hidden

    def counted(self, packed, rows=None):
        seen.append(len(packed.tokens))
        return hidden(self, packed, rows)

    monkeypatch.setattr(CausalModel, "hidden", counted)
    return seen


def together(client, asks):
    """The futures of what is asked while the client's thread is busy, so that all of it waits."""
    gate = threading.Event()
    client.worker.submit(gate.wait)
    futures = [ask() for ask in asks]
    gate.set()
    return futures


def batch_of(index, datums):
    """A few of the datums, others for each session, with what policy losses read."""
    policy = {"logprobs": lambda n: [-2.0] * n, "advantages": lambda n: [0.5, -1.0] * n}
    batch = []
    for datum in datums[index : index + 3]:
        length = len(datum["model_input"])
        extra = {name: of(length)[:length] for name, of in policy.items()} if index % 2 else {}
        inputs = {k: v for k, v in datum["loss_fn_inputs"].items() if k != "weights" or not extra}
        batch.append({**datum, "loss_fn_inputs": {**inputs, **extra}})
    return batch, "ppo" if index % 2 else "cross_entropy"


def trained(start, client, datums, run, **fields):
    """Everything that four sessions show in three steps each."""
    sessions = [start(lora_rank=rank, seed=rank, **fields) for rank in RANKS]
    shown = [[] for _ in sessions]
    for turn in range(3):
        batches = [batch_of((index + turn) % 6, datums) for index in range(len(sessions))]
        asks = [
            lambda s=session, b=batch: client.forward_backward(s, *b)
            for session, batch in zip(sessions, batches, strict=True)
        ]
        for session, own, result in zip(sessions, shown, run(client, asks), strict=True):
            parameters = client.trainer(session).parameters
            own += [torch.tensor(result.loss)]
            own += [output["logprobs"].torch() for output in result.loss_fn_outputs]
            own += [parameter.grad.clone() for parameter in parameters]
            client.optim_step(session, 1e-2).result()
            own += [parameter.detach().clone() for parameter in parameters]
    return shown


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"lora_dropout": 0.3, "gradient_checkpointing": True},
        {"dtype": "bfloat16"},
        {"lora_targets": ["all-linear", "head"]},
    ],
    ids=["plain", "dropout", "bfloat16", "head"],
)
def test_several_sessions_in_a_pass_get_what_each_gets_alone(
    start, local_client, datums, passes, fields
):
    alone = trained(
        start, local_client, datums, lambda _, asks: [a().result() for a in asks], **fields
    )
    assert len(passes) == 1 + 12  # the first when the model was read
    joint = trained(
        start,
        local_client,
        datums,
        lambda c, asks: [f.result() for f in together(c, asks)],
        **fields,
    )
    assert len(passes) == 1 + 12 + 3
    for one, other in zip(alone, joint, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_pass_of_several_is_no_longer_than_allowed(tiny_folder, datums, passes):
    """And a batch that takes several passes takes the same ones beside others."""
    client = TrainingClient(device="cpu", tokens_per_pass=24)
    config = {"model": tiny_folder, "dtype": "float32", "lora_rank": 4}
    sessions = [client.start_session({**config, "seed": seed}) for seed in range(3)]
    passes.clear()
    want = [client.forward_backward(session, datums).result() for session in sessions]
    assert max(passes) <= 24
    gradients = [[p.grad.clone() for p in client.trainer(s).parameters] for s in sessions]
    again = [client.start_session({**config, "seed": seed}) for seed in range(3)]
    passes.clear()
    got = together(client, [lambda s=s: client.forward_backward(s, datums) for s in again])
    assert [f.result().loss for f in got] == [result.loss for result in want]
    assert max(passes) <= 24
    for session, expected in zip(again, gradients, strict=True):
        own = [p.grad for p in client.trainer(session).parameters]
        assert all(torch.equal(a, b) for a, b in zip(own, expected, strict=True))
    client.close()


def test_sessions_that_train_other_layers_have_passes_of_their_own(
    start, local_client, datums, passes
):
    sessions = [start(), start(lora_targets="mlp"), start(seed=3), start(lora_targets="mlp")]
    sessions.append(start(dora=True))
    passes.clear()
    asks = [lambda s=s: local_client.forward(s, datums) for s in sessions]
    losses = [future.result().loss for future in together(local_client, asks)]
    assert len(passes) == 3
    assert losses == [local_client.forward(session, datums).result().loss for session in sessions]


def test_a_session_whose_tokens_all_have_weight_0_is_answered_beside_others(
    start, local_client, datums
):
    silent = [
        {"model_input": [5, 6], "loss_fn_inputs": {"target_tokens": [6, 7], "weights": [0, 0]}}
    ]
    one, other = start(), start()
    nothing, loss = together(
        local_client,
        [
            lambda: local_client.forward_backward(one, silent),
            lambda: local_client.forward_backward(other, datums),
        ],
    )
    assert nothing.result().loss == 0.0
    assert nothing.result().loss_fn_outputs[0]["logprobs"].tolist() == [0.0, 0.0]
    assert loss.result().loss > 0
    assert local_client.has_gradients(other)
    assert not local_client.has_gradients(one)


def test_what_a_session_is_asked_stays_in_its_order():
    """Joint work may go before others' work, never before its own."""
    worker, gate, done = Worker("test"), threading.Event(), []

    def joint(items):
        done.append(sorted(items))
        return items

    def alone(name):
        return worker.submit(lambda: done.append(name), owner=name[0])

    worker.submit(gate.wait)
    worker.submit_joint(joint, "a1", kind="k", owner="a")
    alone("a2")
    worker.submit_joint(joint, "a3", kind="k", owner="a")
    worker.submit_joint(joint, "b1", kind="k", owner="b")
    worker.submit_joint(joint, "c1", kind="other", owner="c")
    alone("d1")
    worker.submit_joint(joint, "d2", kind="k", owner="d")
    worker.submit(lambda: done.append("all"))
    last = worker.submit_joint(joint, "e1", kind="k", owner="e")
    gate.set()
    assert last.result() == "e1"
    assert done == [["a1", "b1"], "a2", ["a3"], ["c1"], "d1", ["d2"], "all", ["e1"]]
    worker.close()


def test_joint_work_that_fails_fails_for_those_who_asked_and_no_others():
    worker, gate = Worker("test"), threading.Event()

    def broken(items):
        raise RuntimeError("no")

    worker.submit(gate.wait)
    futures = [worker.submit_joint(broken, i, kind="k", owner=i) for i in range(2)]
    after = worker.submit_joint(lambda items: items, 7, kind="other", owner=0)
    gate.set()
    for future in futures:
        with pytest.raises(RuntimeError, match="no"):
            future.result()
    assert after.result() == 7
    worker.close()


def test_all_sessions_have_the_same_frozen_weights(start, local_client, tiny_folder, datums):
    sampling = SamplingClient(beside=local_client)
    sessions = [start(), start(lora_rank=2, lora_targets="mlp")]
    drawn = sampling.start_session({"model": tiny_folder, "dtype": "float32"})
    models = [local_client.trainer(s).model.model for s in sessions]
    models.append(sampling.loaded(drawn).model.model)
    places = [
        {n: (p.data_ptr(), id(p)) for n, p in model.named_parameters() if "lora_" not in n}
        for model in models
    ]
    assert places[0] == places[1] == places[2]
    other = start(dtype="bfloat16")
    assert (
        local_client.trainer(other).model.base is not local_client.trainer(sessions[0]).model.base
    )
    before = sampling.compute_logprobs(drawn, [3, 4, 5]).result()
    local_client.forward_backward(sessions[0], datums)
    local_client.optim_step(sessions[0], 1e-2).result()
    assert sampling.compute_logprobs(drawn, [3, 4, 5]).result() == before
    sampling.close()
    assert local_client.forward(sessions[0], datums).result().loss > 0


def test_a_model_that_nobody_uses_is_let_go(start, local_client):
    one, other = start(), start()
    base = weakref.ref(local_client.trainer(one).model.base)
    local_client.close_session(one)
    gc.collect()
    assert base() is local_client.trainer(other).model.base
    local_client.close_session(other)
    gc.collect()
    assert base() is None


def test_a_folder_that_was_written_anew_is_read_anew(local_client, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = {"model": str(folder), "dtype": "float32"}
    one, other = (local_client.trainer(local_client.start_session(config)) for _ in range(2))
    (weights,) = folder.glob("*.safetensors")
    os.utime(weights, ns=(1, 1))
    third = local_client.trainer(local_client.start_session(config))
    assert one.model.base is other.model.base is not third.model.base
