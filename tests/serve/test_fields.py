"""Every field of the SDK's requests for training has an effect, or is refused by its name."""

from __future__ import annotations

import pytest

tinker = pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[tinker]'")

from tinker import types  # noqa: E402
from tinker.proto import tinker_public_pb2 as theirs  # noqa: E402
from tinker.types.get_info_request import GetInfoRequest  # noqa: E402

KINDS = (
    types.CreateSessionRequest,
    types.SessionHeartbeatRequest,
    types.CreateModelRequest,
    types.LoraConfig,
    GetInfoRequest,
    types.OptimStepRequest,
    types.AdamParams,
    types.LoadWeightsRequest,
    types.SaveWeightsRequest,
    types.SaveWeightsForSamplerRequest,
    types.CreateSamplingSessionRequest,
)
MESSAGES = ("ForwardBackwardRequest", "Datum", "Chunk", "Tensor")


def test_a_malformed_request_gives_up_its_place_and_the_next_one_goes_on(door):
    model = door.model()
    refused = {"model_id": model, "seq_id": door.number(model)}
    door.refused("optim_step", "learning_rate", **refused, adam_params={"learning_rate": -1.0})
    assert door.loss(model) > 0


def a_program(door):
    said = {"tags": ["a"], "sdk_version": "0.38.0", "display_name": "Ann"}
    session = door.post("create_session", **said, user_metadata={"who": "me", "n": 3})
    shown = door.get(f"sessions/{session['session_id']}")
    assert {name: shown[name] for name in said} == said
    assert shown["user_metadata"] == {"who": "me", "n": "3"}


def its_project(door):
    session = door.post("create_session", project_id="p")["session_id"]
    new = {"session_id": session, "model_seq_id": 0, "base_model": door.base}
    run = door.done("create_model", **new)["model_id"]
    found = door.get("training_runs", project_id="p")["training_runs"]
    assert [one["training_run_id"] for one in found] == [run]
    assert door.get("training_runs", project_id="q")["training_runs"] == []


def a_heartbeat(door):
    door.post("session_heartbeat", session_id=door.session)
    door.refused("session_heartbeat", "no session 'x'", [404], session_id="x")


def a_model(door):
    model = door.model(model_seq_id=77, user_metadata={"who": "me"})
    assert model == f"{door.session}:train:77"
    run = door.get(f"training_runs/{model}", access_scope="accessible")
    assert run["base_model"] == door.base
    assert run["user_metadata"] == {"who": "me"}
    new = {"session_id": door.session, "model_seq_id": 78, "base_model": door.base}
    door.refused("create_model", "base_model", **{**new, "base_model": door.base.upper()})
    door.refused("create_model", "no session", [404], **{**new, "session_id": "x"})


def its_optimizer(door):
    dimuon = {"type": "dimuon", "version": 1}
    new = {"session_id": door.session, "model_seq_id": 79}
    door.refused("create_model", "adamw", **new, base_model=door.base, optimizer_config=dimuon)
    door.refused("load_weights", "adamw", **new, path="x", optimizer_config=dimuon)


def its_update(door):
    assert door.post("get_info", model_id=door.model({"rank": 3}))["lora_rank"] == 3
    new = {"session_id": door.session, "model_seq_id": 80, "base_model": door.base}
    door.refused("create_model", "rank", **new, lora_config={"rank": 0})
    door.refused("create_model", "does not support alpha", **new, lora_config={"alpha": 8})
    door.refused("get_info", "no training run", [404], model_id="x")


def the_seed(door):
    one, same, other = (door.trained(lora={"seed": seed}) for seed in (1, 1, 2))
    assert one == same != other


def the_layers(door):
    parts = ("train_mlp", "train_attn", "train_unembed")
    losses = set()
    for part in parts:
        only = {name: name == part for name in parts}
        model = door.model(only)
        path = door.of("save_weights", model, path="a")["path"]
        info = door.post("weights_info", tinker_path=path)
        assert {name: info[name] for name in parts} == only
        losses.add(door.trained(lora=only))
    assert len(losses) == 3


def adam(door):
    plain = door.trained()
    changed = {"learning_rate": 5e-3, "beta1": 0.5, "beta2": 0.5, "eps": 1e-1}
    changed |= {"weight_decay": 0.9, "grad_clip_norm": 1e-3}
    assert set(changed) == set(types.AdamParams.model_fields)
    losses = {name: door.trained({name: value}) for name, value in changed.items()}
    assert plain not in losses.values()
    model = door.model()
    for name in changed:
        body = {"model_id": model, "seq_id": door.number(model), "adam_params": {name: -1.0}}
        door.refused("optim_step", name, **body)
    dimuon = {"type": "dimuon", "learning_rate": 1e-3}
    body = {"model_id": model, "seq_id": door.number(model), "optimizer_params": dimuon}
    door.refused("optim_step", "does not support optimizer_params", **body)
    assert door.of("optim_step", model)["metrics"]["step:max"] == 1.0


def places(door):
    named = {"save_weights": {"path": "a"}, "save_weights_for_sampler": {"path": "a"}}
    for path in ("optim_step", "save_weights", "save_weights_for_sampler"):
        model, more = door.model(), named.get(path, {})
        later = door.post(path, model_id=model, seq_id=2, **more)
        assert door.post(path, model_id=model, seq_id=2, **more) == later
        first = door.post("optim_step", model_id=model, seq_id=1)
        assert door.result(first)["metrics"]["step:max"] == 1.0
        assert "error" not in door.result(later)
        door.refused(path, "seq_id", model_id=model, seq_id=0, **more)
        door.refused(path, "no training run", [404], model_id="x", seq_id=1, **more)


def loading(door):
    model, went_on = door.model(), []
    adam = {"adam_params": {"learning_rate": 1e-2}}
    door.loss(model)
    door.of("optim_step", model, **adam)
    path = door.of("save_weights", model, path="one")["path"]

    def next_losses(model):
        losses = [door.loss(model)]
        door.of("optim_step", model, **adam)
        return [*losses, door.loss(model)]

    went_on = next_losses(model)
    for optimizer, number in ((True, 90), (False, 91)):
        new = {"session_id": door.session, "model_seq_id": number, "path": path}
        more = {"base_model": door.base, "user_metadata": {"n": str(number)}}
        other = door.done("load_weights", **new, **more, optimizer=optimizer)["model_id"]
        assert other == f"{door.session}:train:{number}"
        assert door.get(f"training_runs/{other}")["user_metadata"] == {"n": str(number)}
        first, second = next_losses(other)
        assert first == went_on[0]
        assert (second == went_on[1]) == optimizer
    open_one = door.model({"seed": 5})
    again = {"path": path, "optimizer": True, "user_metadata": {"loaded": "yes"}}
    assert door.of("load_weights", open_one, **again)["path"] == path
    assert door.get(f"training_runs/{open_one}")["user_metadata"] == {"loaded": "yes"}
    assert next_losses(open_one) == went_on
    new = {"session_id": door.session, "model_seq_id": 92, "path": path}
    door.refused("load_weights", "base_model", **new, base_model="x")
    door.refused("load_weights", "either session_id or model_id", **new, model_id=model)


def a_token_of_access(door):
    new = {"session_id": door.session, "model_seq_id": 93, "path": "x"}
    door.refused("load_weights", "weights_access_token", **new, weights_access_token="t")


def saving(door):
    model = door.model()
    for path, kind in (
        ("save_weights", "weights"),
        ("save_weights_for_sampler", "sampler_weights"),
    ):
        for name, more in (("a", {}), ("b", {"ttl_seconds": 3600, "user_metadata": {"x": "y"}})):
            saved = door.of(path, model, path=name, **more)["path"]
            assert saved == f"tinker://{model}/{kind}/{name}"
        listed = door.get(f"training_runs/{model}/checkpoints")["checkpoints"]
        one, other = (c for c in listed if c["checkpoint_id"].startswith(f"{kind}/"))
        assert (one["expires_at"], one["user_metadata"]) == (None, None)
        assert other["expires_at"] > other["time"]
        assert other["user_metadata"] == {"x": "y"}
        wrong = {"model_id": model, "path": "c"}
        for ttl in (0, 2**40):
            number = door.number(model)
            door.refused(path, "ttl_seconds", **wrong, seq_id=number, ttl_seconds=ttl)
        assert "must be a name" in door.of(path, model, path="../a")["error"]
    assert "there is a checkpoint" in door.of("save_weights", model, path="a")["error"]
    assert "path" in door.of("save_weights", model, path="a", overwrite=True)


def kinds_of_samplers(door):
    model = door.model()
    asked = {"model_id": model, "seq_id": door.number(model), "kind": "inflight"}
    door.refused("save_weights_for_sampler", "kind", **asked)
    assert "path" in door.of("save_weights_for_sampler", model, path="a", kind="snapshot")


def samplers(door):
    new = {"session_id": door.session, "base_model": door.base, "sampling_session_seq_id": 40}
    sampler = door.post("create_sampling_session", **new)["sampling_session_id"]
    assert door.post("create_sampling_session", **new)["sampling_session_id"] == sampler
    assert door.get(f"samplers/{sampler}")["base_model"] == door.base
    model = door.model()
    path = door.of("save_weights_for_sampler", model, path="a")["path"]
    other = {**new, "model_path": path}
    door.refused("create_sampling_session", "sampling_session_seq_id", **other)
    other["sampling_session_seq_id"] = 41
    trained = door.post("create_sampling_session", **other)["sampling_session_id"]
    assert door.get(f"samplers/{trained}")["model_path"] == path
    door.refused("create_sampling_session", "base_model", **{**other, "base_model": "x"})
    door.refused("create_sampling_session", "no session", [404], **{**new, "session_id": "x"})
    made = door.of("save_weights_for_sampler", model, sampling_session_seq_id=42)
    assert made["sampling_session_id"] == f"{door.session}:sample:42"
    taken = door.of("save_weights_for_sampler", model, sampling_session_seq_id=40)
    assert "sampling_session_seq_id: 40" in taken["error"]


def batches(door):
    model = door.model()
    one = door.loss(model)
    assert door.loss(model, data=[door.datum(), door.datum()]) == pytest.approx(2 * one, rel=1e-5)
    half = door.datum(weights=[0.5] * 8)
    assert door.loss(model, data=[half]) == pytest.approx(one / 2, rel=1e-5)
    assert "must be one of cross_entropy" in door.loss(model, loss_fn="gspo")
    assert "logprobs" in door.loss(model, loss_fn="ppo")
    short = door.datum()
    short.loss_fn_inputs["target_tokens"].shape[0] = 7
    assert "shape" in door.loss(model, data=[short])
    odd = door.datum()
    odd.loss_fn_inputs["target_tokens"].dtype = theirs.DTYPE_UNSPECIFIED
    assert "target_tokens must be a dense tensor" in door.loss(model, data=[odd])


def forward_only(door):
    model = door.model()
    assert door.loss(model, forward_only=True) == pytest.approx(door.loss(door.model()), rel=1e-5)
    assert door.of("optim_step", model)["metrics"]["grad_norm:mean"] == 0.0


def loss_settings(door):
    model = door.model()
    policy = door.datum(logprobs=[-9.0] * 8, advantages=[1.0] * 8)
    asked = {"data": [policy], "loss_fn": "ppo"}
    plain = door.loss(model, **asked)
    older = door.loss(model, **asked, loss_fn_config={"clip_high_threshold": 1.5})
    number = theirs.LossConfigValue(number=1.5)
    assert older == door.loss(model, **asked, loss_fn_config_v2={"clip_high_threshold": number})
    assert older != plain
    text = theirs.LossConfigValue(text="x")
    assert "must be a number" in door.loss(model, **asked, loss_fn_config_v2={"beta": text})
    assert "unknown key 'beta'" in door.loss(model, **asked, loss_fn_config={"beta": 1.0})


def what_is_not_read_of_batches(door):
    model = door.model()

    def spans(one, name):
        getattr(one, name).add().prompt_tokens.length = 3

    def chunk(one, name):
        getattr(one.model_input.add(), name).SetInParent()

    for name, put in (
        ("model_input_spans", spans),
        ("loss_fn_input_spans", spans),
        ("image", chunk),
        ("dmel", chunk),
    ):
        one = door.datum()
        put(one, name)
        assert f"without {name}, which" in door.loss(model, data=[one])
    sparse = door.datum()
    sparse.loss_fn_inputs["weights"].sparse_csr.values = b""
    assert "weights must be without sparse_csr" in door.loss(model, data=[sparse])


# What is checked: of each kind of request, the fields that the check shows.
SHOWN = {
    a_program: {
        "CreateSessionRequest": "tags sdk_version user_metadata display_name",
    },
    its_project: {
        "CreateSessionRequest": "project_id",
    },
    a_heartbeat: {
        "SessionHeartbeatRequest": "session_id",
    },
    a_model: {
        "CreateModelRequest": "session_id model_seq_id base_model user_metadata",
    },
    its_optimizer: {
        "CreateModelRequest": "optimizer_config",
        "LoadWeightsRequest": "optimizer_config",
    },
    its_update: {
        "CreateModelRequest": "lora_config",
        "LoraConfig": "rank",
        "GetInfoRequest": "model_id",
    },
    the_seed: {
        "LoraConfig": "seed",
    },
    the_layers: {
        "LoraConfig": "train_mlp train_attn train_unembed",
    },
    adam: {
        "AdamParams": "learning_rate beta1 beta2 eps weight_decay grad_clip_norm",
        "OptimStepRequest": "optim_params",
    },
    places: {
        "OptimStepRequest": "model_id seq_id",
        "SaveWeightsRequest": "model_id seq_id",
        "SaveWeightsForSamplerRequest": "model_id seq_id",
    },
    loading: {
        "LoadWeightsRequest": "session_id model_seq_id model_id seq_id path optimizer base_model "
        "user_metadata",
    },
    a_token_of_access: {
        "LoadWeightsRequest": "weights_access_token",
    },
    saving: {
        "SaveWeightsRequest": "path overwrite ttl_seconds user_metadata",
        "SaveWeightsForSamplerRequest": "path ttl_seconds user_metadata",
    },
    kinds_of_samplers: {
        "SaveWeightsForSamplerRequest": "kind",
    },
    samplers: {
        "SaveWeightsForSamplerRequest": "sampling_session_seq_id",
        "CreateSamplingSessionRequest": "sampling_session_seq_id session_id base_model model_path",
    },
    batches: {
        "ForwardBackwardRequest": "model_id seq_id data loss_fn",
        "Chunk": "encoded_text",
        "Datum": "model_input loss_fn_inputs",
        "Tensor": "dense dtype shape",
    },
    forward_only: {
        "ForwardBackwardRequest": "forward_only",
    },
    loss_settings: {
        "ForwardBackwardRequest": "loss_fn_config loss_fn_config_v2",
    },
    what_is_not_read_of_batches: {
        "Datum": "model_input_spans loss_fn_input_spans",
        "Chunk": "image dmel",
        "Tensor": "sparse_csr",
    },
}


@pytest.mark.parametrize("check", SHOWN, ids=lambda check: check.__name__)
def test_fields_have_an_effect_or_are_refused_by_their_names(door, check):
    check(door)


def test_every_field_of_the_sdk_is_shown(fields_of):
    shown = [f"{kind}.{name}" for of in SHOWN.values() for kind in of for name in of[kind].split()]
    assert sorted(shown) == sorted(fields_of(KINDS, MESSAGES))
