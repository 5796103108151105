"""Every field of the SDK's requests for training has an effect, or is refused by its name."""

from __future__ import annotations

import pytest
from safetensors.torch import load

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
    types.SaveWeightsExternalRequest,
    types.CopyWeightsRequest,
    types.SessionSearchRequest,
    types.SessionSearchCursor,
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


def external(door):
    model = door.model()
    named = {"path": "out", "ttl_seconds": 3600}
    path = door.of("save_weights_external", model, **named)["path"]
    assert path == f"tinker://{model}/external_weights/out"
    assert (
        "there are external weights 'out'"
        in door.of("save_weights_external", model, **named)["error"]
    )
    (listed,) = door.get(f"training_runs/{model}/checkpoints")["checkpoints"]
    assert (listed["checkpoint_type"], listed["tinker_path"]) == ("external", path)
    assert listed["size_bytes"] > 0
    assert listed["expires_at"] is not None
    wrong = {"model_id": model, "seq_id": door.number(model), "path": "other"}
    door.refused("save_weights_external", "age_enc", **wrong, age_encryption_recipients=["age1x"])
    given = door.get(
        f"training_runs/{model}/checkpoints/external_weights/out/external_weights_urls"
    )
    assert set(given["urls"]) == {"adapter_config.json", "adapter_model.safetensors"}
    address = given["urls"]["adapter_model.safetensors"]
    got = door.client.get(address)
    assert got.status_code == 200
    assert len(load(got.content)) > 0
    for wrong in (address[:-1] + "x", address.replace("expires=", "expires=9"), address + "%c3%a9"):
        refused = door.client.get(wrong)
        assert refused.status_code == 404
        assert "holds no longer" in refused.json()["detail"]
    door.of("save_weights", model, path="kept")
    no = door.client.get(
        f"/api/v1/training_runs/{model}/checkpoints/weights/kept/external_weights_urls"
    )
    assert (no.status_code, "external_weights" in no.json()["detail"]) == (400, True)


def copying(door):
    model = door.model()
    door.loss(model)
    door.of("optim_step", model, adam_params={"learning_rate": 1e-2})
    path = door.of("save_weights", model, path="a")["path"]
    want = door.loss(model)
    there = {"source_path": path, "destination_project_id": "archive"}
    copied = door.post("copy_weights", **there, ttl_seconds=3600)["tinker_path"]
    run = copied.split("/")[2]
    (shown,) = door.get(f"training_runs/{run}/checkpoints")["checkpoints"]
    assert (shown["checkpoint_id"], shown["tinker_path"]) == ("weights/a", copied)
    assert shown["expires_at"] is not None
    found = door.get("training_runs", project_id="archive")["training_runs"]
    assert [one["training_run_id"] for one in found] == [run]
    door.refused("optim_step", f"go on from {copied}", model_id=run, seq_id=1)
    here = {"source_path": path, "session_id": door.session, "model_seq_id": 60}
    for _ in range(2):  # one that comes twice is done once
        other = door.post("copy_weights", **here)["tinker_path"]
        assert other == f"tinker://{door.session}:train:60/weights/a"
    keyed = {"X-Idempotency-Key": "one"}
    twice = [door.client.post("/api/v1/copy_weights", json=there, headers=keyed) for _ in range(2)]
    assert twice[0].json() == twice[1].json()
    assert twice[0].json()["tinker_path"] != copied
    door.client.delete(f"/api/v1/training_runs/{model}/checkpoints/weights/a")
    for number, source in ((61, copied), (62, other)):
        new = {"session_id": door.session, "model_seq_id": number, "path": source}
        assert door.loss(door.done("load_weights", **new, optimizer=True)["model_id"]) == want
    door.refused("copy_weights", "no checkpoint", [404], **here)
    source = door.of("save_weights", model, path="b")["path"]
    taken = {**here, "source_path": source}
    door.refused("copy_weights", f"{door.session}:train:60 is taken", **taken)
    door.refused("copy_weights", "destination_project_id", source_path=source)
    door.refused("copy_weights", "come together", source_path=source, session_id=door.session)
    there["source_path"] = source
    door.refused("copy_weights", "weights_access_token", **there, weights_access_token="t")
    headers = {"X-Tinker-Weights-Access-Token": "t"}
    answer = door.client.post("/api/v1/copy_weights", json=there, headers=headers)
    assert (answer.status_code, "weights_access_token" in answer.text) == (400, True)


def searching(door):
    names = ["Nightly one", "nightly two", "Daily"]
    made = [
        door.post("create_session", display_name=name, project_id="s", user_metadata={"n": name})
        for name in names
    ]
    ids = [one["session_id"] for one in made]
    door.post(f"sessions/{ids[1]}/finish", reason={"type": "errored"}, detail="out of flour")
    door.post("session_heartbeat", session_id=ids[0])

    def found(**asked):
        page = door.post("sessions/search", **{"project_ids": ["s"], **asked})
        return [ids.index(one["session_id"]) for one in page["sessions"]]

    assert found() == [2, 1, 0]  # newest first
    assert found(display_name="NIGHTLY one") == [0]
    assert found(display_name="daily", session_id=ids[0]) == [2, 0]
    assert found(session_id=ids[1]) == [1]
    assert found(user_metadata={"n": "Daily"}) == [2]
    assert found(user_metadata={"n": "Daily", "m": "x"}) == []
    assert found(project_ids=[]) == []
    assert found(owner={"type": "accessible"}) == [2, 1, 0]
    assert found(owner={"type": "user", "owner_urns": ["somebody"]}) == []
    finished = {"type": "client_finished"}
    assert found(statuses=[finished]) == [1]
    assert found(statuses=[{**finished, "reasons": ["success"]}]) == []
    assert found(statuses=[{"type": "active"}, {"type": "failed"}]) == [0]
    first = door.post("sessions/search", project_ids=["s"], limit=2)
    assert first["sessions"][0]["owner"] == "local"
    assert first["sessions"][1]["status"]["detail"] == "out of flour"
    assert found(cursor=first["next_cursor"]) == [0]
    assert "next_cursor" not in door.post("sessions/search", project_ids=["s"], limit=3)
    for name, wrong in (("limit", 0), ("display_name", ""), ("statuses", []), ("cursor", {})):
        door.refused("sessions/search", name, **{name: wrong})
    moved = door.client.put(f"/api/v1/sessions/{ids[2]}/project", json={"project_id": "t"})
    assert moved.status_code == 200
    assert found() == [1, 0]
    storage = door.get("billing/usage/checkpoints/current")["data"]
    assert all(one["checkpoint_count"] and one["size_bytes"] for one in storage)
    assert door.get("billing/usage/checkpoints/current", project_id="s")["data"] == []


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
    external: {
        "SaveWeightsExternalRequest": "model_id path seq_id ttl_seconds age_encryption_recipients",
    },
    copying: {
        "CopyWeightsRequest": "source_path session_id model_seq_id destination_project_id "
        "ttl_seconds weights_access_token",
    },
    searching: {
        "SessionSearchRequest": "session_id project_ids user_metadata display_name owner statuses "
        "limit cursor",
        "SessionSearchCursor": "last_created_at last_session_id",
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
