"""The official SDK and this package's adapters against a real server."""

from __future__ import annotations

import json
import time
import urllib.request
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import crucible_kitchen as ck
from crucible_kitchen.testing import (
    CompleterContract,
    SamplingClientContract,
    TrainingClientContract,
)

tinker = pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[tinker]'")

from crucible_kitchen.adapters import local  # noqa: E402
from crucible_kitchen.adapters import tinker as adapters  # noqa: E402
from crucible_kitchen.errors import ConfigError, PortError  # noqa: E402
from crucible_kitchen.nn.peft_format import WEIGHTS_FILE  # noqa: E402
from crucible_kitchen.serve import State  # noqa: E402

# The SDK warns of its own coming changes, and closes sockets when its loop ends.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")


class TestTraining(TrainingClientContract):
    @pytest.fixture
    def adapter(self, server, monkeypatch):
        config = {"model": server.model, "lora_rank": 4}
        monkeypatch.setattr(type(self), "config", config)
        client = adapters.TrainingClient(base_url=server.url, api_key=server.key)
        yield client
        client.close()


class TestSampling(SamplingClientContract):
    @pytest.fixture
    def adapter(self, server, monkeypatch):
        monkeypatch.setattr(type(self), "config", {"model": server.model})
        client = adapters.SamplingClient(base_url=server.url, api_key=server.key)
        yield client
        client.close()


class TestCompleter(CompleterContract):
    @pytest.fixture
    def adapter(self, server):
        client = adapters.Completer(server.model, base_url=server.url, api_key=server.key)
        yield client
        client.close()


@pytest.fixture
def service(server):
    one = tinker.ServiceClient(base_url=server.url, api_key=server.key)
    yield one
    one.close("success").result()


def _datum(tokens):
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )


DATA = [_datum(list(range(5 + i, 15 + i))) for i in range(3)]


def _train(client, steps):
    losses = []
    for _ in range(steps):
        loss = client.forward_backward(DATA, "cross_entropy")
        client.optim_step(tinker.AdamParams(learning_rate=1e-2))
        losses.append(loss.result().metrics["loss:sum"])
    return losses


def test_the_sdk_trains_saves_goes_on_and_draws(service, server):
    client = service.create_lora_training_client(server.model, rank=4, seed=3).result()
    assert client.get_info().model_data.model_name == server.model
    losses = _train(client, 5)
    assert losses[-1] < 0.8 * losses[0]
    path = client.save_state("five").result().path
    assert path == f"tinker://{client.model_id}/weights/five"
    went_on = _train(client, 2)
    again = service.create_training_client_from_state_with_optimizer(path).result()
    assert _train(again, 2) == pytest.approx(went_on, rel=1e-6)
    fresh = service.create_training_client_from_state(path).result()
    first, second = _train(fresh, 2)
    assert first == pytest.approx(went_on[0], rel=1e-6)
    assert second != pytest.approx(went_on[1], rel=1e-6)  # its moments began anew
    sampler = client.save_weights_and_get_sampling_client().result()
    prompt, params = tinker.ModelInput.from_ints([5, 6, 7]), tinker.SamplingParams(max_tokens=3)
    drawn = sampler.sample(prompt, 2, params).result()
    assert [len(one.tokens) for one in drawn.sequences] == [3, 3]
    before = service.create_sampling_client(base_model=server.model).result()
    trained, base = (c.compute_logprobs(prompt).result()[1:] for c in (sampler, before))
    assert sum(trained) > sum(base)


def test_an_open_model_takes_up_a_checkpoint(service, server):
    """The way older programs load, with and without the optimizer's state."""
    client = service.create_lora_training_client(server.model, rank=4, seed=1).result()
    _train(client, 3)
    path = client.save_state("three").result().path
    went_on = _train(client, 2)
    for method, same in (("load_state_with_optimizer", True), ("load_state", False)):
        other = service.create_lora_training_client(server.model, rank=4, seed=9).result()
        _train(other, 1)
        assert getattr(other, method)(path).result().path == path
        first, second = _train(other, 2)
        assert first == pytest.approx(went_on[0], rel=1e-6)
        assert (second == pytest.approx(went_on[1], rel=1e-6)) == same
    wrong = service.create_lora_training_client(server.model, rank=2).result()
    with pytest.raises(tinker.TinkerError, match="base, rank and layers"):
        wrong.load_state(path).result()


def test_a_custom_loss_of_the_sdk(service, server):
    client = service.create_lora_training_client(server.model, rank=4, seed=3).result()

    def loss(data, logprobs):
        value = -torch.cat(logprobs).sum()
        return value, {"mine:sum": float(value.detach())}

    want = client.forward(DATA, "cross_entropy").result().metrics["loss:sum"]
    got = client.forward_backward_custom(DATA, loss).result().metrics
    assert got["mine:sum"] == pytest.approx(want, rel=1e-5)


def test_a_batch_of_more_than_a_chunk_is_one_batch(service, server):
    """The SDK sends it in pieces, the first of them last."""
    client = service.create_lora_training_client(server.model, rank=4, seed=3).result()
    data = [_datum([5 + i % 7, 6, 7]) for i in range(1100)]
    whole = client.forward(data, "cross_entropy").result()
    assert len(whole.loss_fn_outputs) == 1100
    alone = [client.forward([one], "cross_entropy").result() for one in (data[0], data[-1])]
    for index, one in ((0, alone[0]), (-1, alone[1])):
        got = whole.loss_fn_outputs[index]["logprobs"].to_torch()
        torch.testing.assert_close(got, one.loss_fn_outputs[0]["logprobs"].to_torch())


def _passes(server):
    """How many batches were computed, in how many passes, and how many of these were shared."""
    request = urllib.request.Request(f"{server.url}/metrics", headers={"X-API-Key": server.key})
    with urllib.request.urlopen(request, timeout=30) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines() if line[0] != "#"]
    values = {name.removeprefix("crucible_training_"): int(value) for name, value in lines}
    return [values[f"{name}_total"] for name in ("batches", "passes", "shared_passes")]


def test_models_of_several_programs_get_in_one_pass_what_each_gets_alone(server):
    """Every step of them waits while another's long batch is computed, so it is one pass."""
    programs = [tinker.ServiceClient(base_url=server.url, api_key=server.key) for _ in range(4)]
    ranks = (1, 4, 8)

    def models():
        return [
            one.create_lora_training_client(server.model, rank=rank, seed=rank).result()
            for one, rank in zip(programs, ranks, strict=False)
        ]

    alone = [_train(client, 3) for client in models()]
    losses, clients = [[], [], []], models()
    busy = programs[3].create_lora_training_client(server.model, rank=2).result()
    long = [_datum([5 + (i + start) % 90 for i in range(400)]) for start in range(40)]
    before = _passes(server)
    busy.forward(long, "cross_entropy").result()
    alone_in = _passes(server)[1] - before[1]  # a long batch is cut into passes
    before = _passes(server)
    for _ in range(3):
        computed, *_ = _passes(server)
        first = busy.forward(long, "cross_entropy")
        while _passes(server)[0] == computed:  # it might come after those that are to wait for it
            time.sleep(0.005)
        asked = [client.forward_backward(DATA, "cross_entropy") for client in clients]
        for client in clients:
            client.optim_step(tinker.AdamParams(learning_rate=1e-2))
        for own, one in zip(losses, asked, strict=True):
            own.append(one.result().metrics["loss:sum"])
        first.result()
    assert losses == alone  # to the last bit
    batches, passes, shared = (b - a for a, b in zip(before, _passes(server), strict=True))
    assert (batches, passes, shared) == (12, 3 * alone_in + 3, 3)
    for one in programs:
        one.close("success").result()


def test_heartbeats_are_answered_during_a_long_step(service, server):
    client = service.create_lora_training_client(server.model, rank=4).result()
    session = client.model_id.partition(":")[0]
    request = urllib.request.Request(
        f"{server.url}/api/v1/session_heartbeat",
        json.dumps({"session_id": session}).encode(),
        {"Content-Type": "application/json", "X-API-Key": server.key},
    )
    long = client.forward_backward([_datum([5 + i % 90 for i in range(400)])] * 60, "cross_entropy")
    answered, slowest = 0, 0.0
    waiting = long.future()
    while not waiting.done():
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
        slowest = max(slowest, time.perf_counter() - began)
        answered += 1
        time.sleep(0.02)
    assert answered >= 3
    assert slowest < 5


def test_the_head_is_trained_where_that_is_asked(service, server):
    only = {"train_mlp": False, "train_attn": False, "train_unembed": True}
    client = service.create_lora_training_client(server.model, rank=4, seed=1, **only).result()
    first, *_, last = _train(client, 8)
    assert last < 0.9 * first
    path = client.save_state("head").result().path
    rest = tinker.RestClient(base_url=server.url, api_key=server.key)
    info = rest.get_weights_info_by_tinker_path(path).result()
    assert (info.train_mlp, info.train_attn, info.train_unembed) == (False, False, True)
    again = service.create_training_client_from_state_with_optimizer(path).result()
    assert _train(again, 1) == pytest.approx(_train(client, 1), rel=1e-6)
    trained = service.create_sampling_client(model_path=path).result()
    base = service.create_sampling_client(base_model=server.model).result()
    prompt = tinker.ModelInput.from_ints(list(range(5, 15)))
    after, before = (sum(c.compute_logprobs(prompt).result()[1:]) for c in (trained, base))
    assert after > before


def test_the_likeliest_tokens_of_a_prompt(service, server):
    sampler = service.create_sampling_client(base_model=server.model).result()
    prompt, params = tinker.ModelInput.from_ints([5, 6, 7]), tinker.SamplingParams(max_tokens=1)
    asked = {"include_prompt_logprobs": True, "topk_prompt_logprobs": 1000}
    with pytest.raises(tinker.RequestFailedError, match="k must be from 1 to"):
        sampler.sample(prompt, 1, params, **asked).result()
    asked["topk_prompt_logprobs"] = 512  # the whole vocabulary
    drawn = sampler.sample(prompt, 1, params, **asked).result()
    assert drawn.topk_prompt_logprobs[0] is None
    for place, token in ((1, 6), (2, 7)):
        best = drawn.topk_prompt_logprobs[place]
        values = [value for _, value in best]
        assert len(best) == 512
        assert values == sorted(values, reverse=True)
        given = drawn.prompt_logprobs[place]
        assert dict(best)[token] == pytest.approx(given, abs=1e-4)
    last = sampler.sample(prompt, 1, params, prompt_logprobs_last_n=1, **asked).result()
    assert last.prompt_logprobs == [None, None, drawn.prompt_logprobs[2]]
    assert last.topk_prompt_logprobs == [None, None, drawn.topk_prompt_logprobs[2]]


def test_what_was_trained_is_listed_and_deleted(service, server):
    rest = tinker.RestClient(base_url=server.url, api_key=server.key)
    client = service.create_lora_training_client(
        server.model, rank=4, train_attn=False, user_metadata={"who": "me"}
    ).result()
    path = client.save_state("kept", ttl_seconds=3600).result().path
    run = rest.get_training_run(client.model_id).result()
    assert (run.base_model, run.lora_rank, run.is_lora) == (server.model, 4, True)
    assert run.user_metadata == {"who": "me"}
    info = rest.get_weights_info_by_tinker_path(path).result()
    assert (info.train_mlp, info.train_attn, info.train_unembed) == (True, False, True)
    (listed,) = rest.list_checkpoints(client.model_id).result().checkpoints
    assert (listed.tinker_path, listed.checkpoint_type) == (path, "training")
    assert listed.expires_at is not None
    assert listed.size_bytes > 0
    with pytest.raises(tinker.RequestFailedError, match="there is a checkpoint 'kept'"):
        client.save_state("kept").result()
    rest.publish_checkpoint_from_tinker_path(path).result()
    assert rest.list_checkpoints(client.model_id).result().checkpoints[0].public
    rest.delete_checkpoint_from_tinker_path(path).result()
    assert rest.list_checkpoints(client.model_id).result().checkpoints == []
    assert client.model_id in [
        r.training_run_id for r in rest.list_training_runs().result().training_runs
    ]


def test_no_sequence_is_longer_than_the_model_takes(service, server):
    """512 tokens, less than the server's own limit."""
    (shown,) = service.get_server_capabilities().supported_models
    assert (shown.model_name, shown.max_context_length) == (server.model, 512)
    client = service.create_lora_training_client(server.model, rank=4).result()
    with pytest.raises(tinker.RequestFailedError, match="at most 512 tokens, got 513"):
        client.forward([_datum([5] * 514)], "cross_entropy").result()
    sampler = service.create_sampling_client(base_model=server.model).result()
    free = tinker.SamplingParams(stop=[])
    drawn = sampler.sample(tinker.ModelInput.from_ints([5] * 508), 1, free).result()
    assert len(drawn.sequences[0].tokens) == 4
    with pytest.raises(tinker.TinkerError, match="at most 512 tokens, got 513"):
        sampler.sample(tinker.ModelInput.from_ints([5] * 512), 1, free).result()


def test_an_unknown_loss_is_told_and_training_goes_on(service, server):
    client = service.create_lora_training_client(server.model, rank=4).result()
    with pytest.raises(tinker.RequestFailedError, match="must be one of cross_entropy"):
        client.forward_backward(DATA, "gspo").result()
    assert _train(client, 1)


def test_a_server_killed_while_it_saves_has_all_that_it_answered(tmp_path, server, tiny_folder):
    own = type(server)(tiny_folder, tmp_path / "state")
    own.start()
    one = tinker.ServiceClient(base_url=own.url, api_key=own.key)
    client = one.create_lora_training_client(tiny_folder, rank=4, seed=1).result()
    _train(client, 2)
    path = client.save_state("two").result().path
    loss = client.forward(DATA, "cross_entropy").result().metrics["loss:sum"]
    saves = [client.save_state(f"more-{number}").future() for number in range(30)]
    saves[4].result()
    own.kill()
    answered = [s.result().path for s in saves if not s.cancel() and s.exception() is None]
    assert saves[4].result().path in answered
    own.start()
    try:
        two = tinker.ServiceClient(base_url=own.url, api_key=own.key)
        rest = tinker.RestClient(base_url=own.url, api_key=own.key)
        listed = rest.list_checkpoints(client.model_id).result().checkpoints
        assert {path, *answered} <= {checkpoint.tinker_path for checkpoint in listed}
        for kept in (path, answered[-1]):
            again = two.create_training_client_from_state_with_optimizer(kept).result()
            got = again.forward(DATA, "cross_entropy").result().metrics["loss:sum"]
            assert got == pytest.approx(loss, rel=1e-6)
        two.close("success").result()
    finally:
        own.kill()


def _assert_same_adapter(server, folder, path):
    """One of this process and one of the server; the names of their tensors."""
    here = load_file(Path(folder) / WEIGHTS_FILE)
    there = load_file(Path(State(server.state_dir).find(path)[1].weights) / WEIGHTS_FILE)
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        torch.testing.assert_close(tensor, there[name], rtol=1e-5, atol=1e-6)
    return set(here)


@pytest.mark.parametrize("targets", ["all-linear", ["attention", "head"]])
def test_equal_losses_and_adapters_through_local_and_through_tinker(server, tmp_path, targets):
    """The same steps in this process and at the server, from the same seed."""
    config = {"model": server.model, "lora_rank": 4, "seed": 5, "lora_targets": targets}
    datums = [{"model_input": list(range(5, 15)), "loss_fn_inputs": {"labels": list(range(5, 15))}}]
    losses, saved = [], []
    for client in (
        local.TrainingClient(device="cpu", weights_dir=tmp_path),
        adapters.TrainingClient(base_url=server.url, api_key=server.key),
    ):
        session = client.start_session(config)
        steps = []
        for _ in range(4):
            steps.append(client.forward_backward(session, datums).result().loss)
            client.optim_step(session, 1e-2).result()
        losses.append(steps)
        saved.append(client.save_weights_for_sampler(session, "four").result())
        client.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    names = _assert_same_adapter(server, *saved)
    assert any("lm_head" in name for name in names) == ("head" in targets)


def test_the_likeliest_tokens_are_the_same_here_and_at_the_server(server):
    answers = []
    for client in (
        local.SamplingClient(device="cpu"),
        adapters.SamplingClient(base_url=server.url, api_key=server.key),
    ):
        session = client.start_session({"model": server.model})
        answers.append(client.compute_topk_logprobs(session, [5, 6, 7, 8], 3).result())
        with pytest.raises(ValueError, match="k must be"):
            client.compute_topk_logprobs(session, [5], 0)
        client.close()
    assert [place is None for place in answers[0]] == [True, False, False, False]
    for here, there in zip(answers[0][1:], answers[1][1:], strict=True):
        assert [token for token, _ in here] == [token for token, _ in there]
        assert [lp for _, lp in here] == pytest.approx([lp for _, lp in there], abs=1e-4)


def test_what_the_service_does_not_take_is_named(server):
    client = adapters.TrainingClient(base_url=server.url, api_key=server.key)
    with pytest.raises(ConfigError, match=r"lora_alpha must be 32.0; lora_dropout must be 0.0"):
        client.start_session({"model": "x", "lora_alpha": 8.0, "lora_dropout": 0.1})
    with pytest.raises(PortError, match="base_model must be one of"):
        client.start_session({"model": "not/served"})
    with pytest.raises(PortError, match="must be a tinker:// path"):
        client.start_session({"model": server.model, "checkpoint_path": "runs/x"})
    client.close()


def test_a_key_is_in_no_error(server):
    warnings.simplefilter("ignore")
    client = adapters.TrainingClient(base_url="http://127.0.0.1:9", api_key="bad-key-topsecret")
    with pytest.raises(PortError) as caught:
        client.start_session({"model": server.model})
    assert "topsecret" not in str(caught.value)


def test_the_recipe_runs_at_the_server_as_it_does_here(server, tmp_path):
    """One line of `adapters=`: equal losses step by step, and equal adapters."""
    rows = [{"prompt": f"Say {word}.", "completion": word} for word in ("one", "two", "three")]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = {
        "model": server.model,
        "dataset": str(tmp_path / "rows.jsonl"),
        "max_steps": 3,
        "batch_size": 2,
        "eval_rows": 1,
        "samples": 0,
        "seed": 2,
        "learning_rate": 1e-2,
    }
    losses, saved = [], []
    for name in ("local", "tinker"):
        adapter = (
            (adapters.TrainingClient, {"base_url": server.url, "api_key": server.key})
            if name == "tinker"
            else local.TrainingClient
        )
        done = ck.run(
            "sft",
            config,
            adapters={"training_client": adapter},
            run_dir=tmp_path / name,
            handlers=(),
        )
        losses.append([one.value for one in done.metrics.history("loss")])
        saved.append(done.artifacts["adapter_path"])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    _assert_same_adapter(server, *saved)
