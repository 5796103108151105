"""The local `TrainingClient` as a session uses it: learning, checkpoints, order, and bad input."""

import json
import math

import pytest
import torch

from crucible_kitchen import nn
from crucible_kitchen.adapters.local import TrainingClient, device
from crucible_kitchen.errors import ConfigError, DataError, PortError
from crucible_kitchen.ops import _frozen_linear


def weights_of(client, session):
    return [p.detach().clone() for p in client.trainer(session).parameters]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def step(client, session, datums, **params):
    client.forward_backward(session, datums)
    return client.optim_step(session, {"learning_rate": 1e-2, **params}).result()


def test_the_loss_falls(start, local_client, datums):
    session = start()
    first = local_client.forward(session, datums).result().loss
    for _ in range(20):
        step(local_client, session, datums)
    assert local_client.forward(session, datums).result().loss < 0.5 * first


def test_bfloat16_learns_too(start, local_client, datums):
    session = start(dtype="bfloat16")
    assert {p.dtype for p in local_client.trainer(session).parameters} == {torch.float32}
    first = local_client.forward(session, datums).result().loss
    for _ in range(20):
        step(local_client, session, datums)
    assert local_client.forward(session, datums).result().loss < 0.6 * first


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_session_says_what_auto_has_come_to(start, local_client, monkeypatch, dtype):
    """What is kept of its numbers, as a reference's answers are, holds for that dtype alone."""
    monkeypatch.setattr(device, "_computes_bfloat16", lambda _: dtype == "bfloat16")
    monkeypatch.setattr(_frozen_linear, "PAYS", False)
    session = start(dtype="auto")
    assert session.config.dtype == dtype == local_client.trainer(session).model.dtype


def test_only_the_update_is_trained(start, local_client, datums):
    session = start()
    model = local_client.trainer(session).model.model
    frozen = {n: p.clone() for n, p in model.named_parameters() if "lora_" not in n}
    step(local_client, session, datums)
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert all(p.grad is None for p in model.parameters())


def test_the_embedding_gets_no_gradient(start, local_client, datums):
    session = start()
    seen = []
    model = local_client.trainer(session).model.model
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(output.requires_grad)
    )
    local_client.forward_backward(session, datums).result()
    assert seen == [False]


def test_clipping(start, local_client, datums):
    session = start()
    free = step(local_client, session, datums)
    assert free.grad_norm > 1
    clipped = start()
    result = step(local_client, clipped, datums, grad_clip_norm=1e-3)
    assert result.grad_norm == pytest.approx(free.grad_norm, rel=1e-6)
    # The first AdamW step has the size of the rate whatever the norm, but for eps.
    tiny = start()
    step(local_client, tiny, datums, grad_clip_norm=1e-3, eps=1.0)
    moved = torch.cat([w.flatten() for w in weights_of(local_client, tiny)])
    still = torch.cat([w.flatten() for w in weights_of(local_client, start())])
    assert (moved - still).norm() == pytest.approx(1e-2 * 1e-3, rel=1e-2)


def test_futures_come_in_order_and_a_failure_stays_its_own(start, local_client, datums):
    session = start()
    done = []

    def broken(data, logprobs):
        raise RuntimeError("the caller's own mistake")

    futures = [
        local_client.forward(session, datums),
        local_client.forward_backward_custom(session, datums, broken),
        local_client.forward_backward(session, datums),
        local_client.optim_step(session, 1e-3),
    ]
    for index, future in enumerate(futures):
        future.add_done_callback(lambda _, index=index: done.append(index))
    with pytest.raises(RuntimeError, match="the caller's own mistake"):
        futures[1].result()
    assert futures[3].result().step == 1
    assert futures[2].result().loss == pytest.approx(futures[0].result().loss, rel=1e-5)
    assert done == [0, 1, 2, 3]


def test_a_custom_loss_is_differentiated(start, local_client, datums):
    custom, plain = start(), start()

    def loss(data, logprobs):
        weights = [d.loss_fn_inputs["weights"].torch() for d in data]
        total = -sum((w * lp).sum() for w, lp in zip(weights, logprobs, strict=True))
        return total, {"rows": float(len(data))}

    got = local_client.forward_backward_custom(custom, datums, loss).result()
    want = local_client.forward_backward(plain, datums).result()
    assert got.loss == got.metrics["loss:sum"] == pytest.approx(want.metrics["loss:sum"], rel=1e-6)
    assert got.metrics["rows"] == 8
    for one, other in zip(
        local_client.trainer(custom).parameters, local_client.trainer(plain).parameters, strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "loss",
    [lambda d, lp: (1.0, {}), lambda d, lp: (lp[0].detach().sum(), {}), lambda d, lp: (lp[2], {})],
)
def test_a_custom_loss_must_be_a_differentiable_scalar(start, local_client, datums, loss):
    with pytest.raises(TypeError, match="must give a scalar tensor"):
        local_client.forward_backward_custom(start(), datums, loss).result()


def test_gradients_that_are_not_finite_stop_the_step(start, local_client, datums):
    session = start()
    step(local_client, session, datums)
    before = weights_of(local_client, session)
    explode = lambda d, lp: (sum(p.sum() for p in lp) * math.inf, {})  # noqa: E731
    local_client.forward_backward_custom(session, datums, explode)
    with pytest.raises(PortError, match="step 2: gradients must be finite"):
        local_client.optim_step(session, 1e-2).result()
    assert equal(weights_of(local_client, session), before)
    assert step(local_client, session, datums).step == 2


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_continued_run_is_the_same_run(start, local_client, datums, tmp_path, dropout):
    straight, first = start(lora_dropout=dropout, seed=5), start(lora_dropout=dropout, seed=5)
    for session in (straight, first):
        for _ in range(2):
            step(local_client, session, datums)
    path = local_client.save_checkpoint(first, str(tmp_path / "checkpoint")).result()
    for _ in range(2):
        step(local_client, straight, datums)
    other = start(lora_dropout=dropout, seed=5, checkpoint_path=path)
    loaded = start(lora_dropout=dropout, seed=5)
    local_client.forward_backward(loaded, datums)  # must not leak into the next step
    local_client.load_checkpoint(loaded, path)
    for session in (first, other, loaded):
        results = [step(local_client, session, datums) for _ in range(2)]
        assert [result.step for result in results] == [3, 4]
        assert equal(weights_of(local_client, session), weights_of(local_client, straight))


def test_dropout_is_seeded_and_off_in_forward(start, local_client, datums):
    one, same, other = (
        start(lora_dropout=0.3),
        start(lora_dropout=0.3),
        start(lora_dropout=0.3, seed=1),
    )
    losses = {}
    for session in (one, same, other):
        step(local_client, session, datums)
        losses[session.id] = local_client.forward_backward(session, datums).result().loss
    assert losses[one.id] == losses[same.id] != losses[other.id]
    assert local_client.forward(one, datums).result() == local_client.forward(one, datums).result()


def test_checkpointing_draws_the_same_masks_again(start, local_client, datums):
    plain, checkpointed = (
        start(lora_dropout=0.3, gradient_checkpointing=flag) for flag in (False, True)
    )
    for session in (plain, checkpointed):
        step(local_client, session, datums)
        step(local_client, session, datums)
    for one, other in zip(
        weights_of(local_client, plain), weights_of(local_client, checkpointed), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dora", [False, True])
def test_a_checkpoint_is_an_adapter_and_more(start, local_client, datums, tmp_path, dora):
    session = start(dora=dora)
    step(local_client, session, datums)
    path = local_client.save_checkpoint(session, str(tmp_path / "checkpoint")).result()
    files = sorted(p.name for p in (tmp_path / "checkpoint").iterdir())
    assert files == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
    ]
    config = json.loads((tmp_path / "checkpoint" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == session.config.model
    adapter = local_client.save_weights_for_sampler(session, "now").result()
    # Weights alone, with a fresh optimizer.
    resumed = start(checkpoint_path=adapter, dora=dora)
    assert equal(weights_of(local_client, resumed), weights_of(local_client, session))
    assert step(local_client, resumed, datums).step == 1
    assert step(local_client, start(checkpoint_path=path, dora=dora), datums).step == 2


def test_a_full_disk_leaves_the_last_checkpoint(start, local_client, datums, tmp_path, monkeypatch):
    session = start()
    path = str(tmp_path / "checkpoint")
    local_client.save_checkpoint(session, path).result()
    saved = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()}
    step(local_client, session, datums)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nn.saving, "_flush", full)
    with pytest.raises(PortError, match=r"save_checkpoint: could not write .*No space left"):
        local_client.save_checkpoint(session, path).result()
    assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()} == saved
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    assert step(local_client, session, datums).step == 2


def test_a_checkpoint_that_is_missing_or_of_another_update(start, local_client, tmp_path):
    session = start()
    with pytest.raises(PortError, match="could not read checkpoint"):
        local_client.load_checkpoint(session, str(tmp_path / "nowhere"))
    with pytest.raises(PortError, match="nowhere"):
        start(checkpoint_path=str(tmp_path / "nowhere"))
    path = local_client.save_checkpoint(session, str(tmp_path / "checkpoint")).result()
    with pytest.raises(PortError, match="does not fit"):
        local_client.load_checkpoint(start(lora_rank=3), path)
    with pytest.raises(PortError, match="magnitude' in the model only"):
        local_client.load_checkpoint(start(dora=True), path)


def row(tokens, **inputs):
    defaults = {"target_tokens": [*tokens[1:], 7], "weights": [1.0] * len(tokens)}
    return {"model_input": tokens, "loss_fn_inputs": {**defaults, **inputs}}


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], DataError, "at least one datum"),
        ([row([3, 4]), row([3, 512])], DataError, r"datums\[1\]: every token must be below .*512"),
        ([row([3, 4], target_tokens=[4, 600])], DataError, r"every target must be .*got 600"),
        ([row([3, 4], weights=[1.0])], DataError, r"datums\[0\].*weights must have shape \[2\]"),
        ([row([3, 4], weights=[1.0, math.nan])], DataError, r"weights must be finite"),
    ],
)
def test_bad_data_is_one_error_that_names_the_datum(start, local_client, data, error, message):
    session = start()
    with pytest.raises(error, match=message):
        local_client.forward_backward(session, data)
    assert local_client.forward(session, [row([3, 4])]).result().loss > 0


def test_bad_losses(start, local_client, datums):
    session = start()
    with pytest.raises(ConfigError, match=r"must be one of cross_entropy.*'crossentropy'"):
        local_client.forward_backward(session, datums, "crossentropy")
    with pytest.raises(ConfigError, match="did you mean 'clip_low_threshold'"):
        local_client.forward(session, datums, "ppo", {"clip_low": 0.5})
    with pytest.raises(DataError, match="advantages"):
        local_client.forward_backward(session, datums, "ppo")


def test_a_batch_without_weight_changes_nothing(start, local_client):
    session = start()
    result = local_client.forward_backward(session, [row([3, 4], weights=[0.0, 0.0])]).result()
    assert (result.loss, result.metrics["trained_tokens:sum"]) == (0.0, 0)
    assert result.loss_fn_outputs[0]["logprobs"].tolist() == [0.0, 0.0]
    assert local_client.optim_step(session, 1.0).result().grad_norm == 0.0


def test_a_session_that_is_closed_or_elsewhere(start, local_client, datums):
    session, other = start(), TrainingClient(device="cpu")
    other.start_session(session.config)  # has the same id there
    pending = local_client.forward(session, datums)
    local_client.close_session(session)
    local_client.close_session(session)
    assert pending.result().loss > 0
    for call in (
        lambda client: client.forward_backward(session, datums),
        lambda client: client.optim_step(session, 1e-3),
        lambda client: client.get_tokenizer(session),
    ):
        for client in (local_client, other):
            with pytest.raises(PortError, match="session must be open here"):
                call(client)


def test_a_closed_client(tiny_folder):
    client = TrainingClient(device="cpu")
    client.close()
    client.close()
    with pytest.raises(PortError, match="closed"):
        client.start_session({"model": tiny_folder})


def test_a_session_that_cannot_start(local_client, tiny_folder, tmp_path):
    with pytest.raises(ConfigError, match="nothing is there"):
        local_client.start_session({"model": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match="did you mean 'lora_rank'"):
        local_client.start_session({"model": tiny_folder, "lora_rnk": 4})
    with pytest.raises(ConfigError, match="linears of the model"):
        local_client.start_session({"model": tiny_folder, "lora_targets": ["qproj"]})


def test_memory_goes_with_the_session(start, local_client, datums):
    import gc
    import weakref

    session = start()
    step(local_client, session, datums)
    model = weakref.ref(local_client.trainer(session).model.model)
    local_client.close_session(session)
    gc.collect()
    assert model() is None
