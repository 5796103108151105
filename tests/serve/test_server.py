"""The server on deterministic adapters: order, repetition, refusals, and requests made of noise."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible_kitchen.adapters import noop
from crucible_kitchen.serve import Kitchen, State
from crucible_kitchen.serve.state import NotFound, Refused

testclient = pytest.importorskip(
    "fastapi.testclient", reason="pip install 'crucible-kitchen[serve]'"
)

from crucible_kitchen.serve import wire  # noqa: E402
from crucible_kitchen.serve.admission import Admission  # noqa: E402
from crucible_kitchen.serve.app import make_app  # noqa: E402


@pytest.fixture
def kitchen(tmp_path):
    one = Kitchen(
        noop.TrainingClient(),
        noop.SamplingClient(),
        ["noop"],
        State(tmp_path),
        max_sequence=64,
        max_waiting=100,
        max_models=2,
    )
    yield one
    one.close()


@pytest.fixture
def client(kitchen):
    with testclient.TestClient(make_app(kitchen)) as one:
        yield one


def _post(client, path, /, **body):
    return client.post(f"/api/v1/{path}", json=body)


def _result(client, answer):
    assert answer.status_code == 200, answer.text
    return _post(client, "retrieve_future", request_id=answer.json()["request_id"])


@pytest.fixture
def model(client):
    """The id of an open model."""
    session = _post(client, "create_session").json()["session_id"]
    asked = _post(client, "create_model", session_id=session, model_seq_id=0, base_model="noop")
    return _result(client, asked).json()["model_id"]


def _batch(model, number, tokens=(5, 6, 7), targets=(6, 7, 8), loss="cross_entropy"):
    request = wire._message("Request")(model_id=model, seq_id=number, loss_fn=loss)
    datum = request.data.add()
    datum.model_input.add().encoded_text.tokens = np.asarray(tokens, "<i4").tobytes()
    tensor = datum.loss_fn_inputs["target_tokens"]
    tensor.dense, tensor.dtype = np.asarray(targets, "<i8").tobytes(), 2
    tensor.shape.extend([len(targets)])
    return request.SerializeToString()


def _forward(client, body):
    return client.post(
        "/api/v1/forward_backward", content=body, headers={"content-type": wire.MEDIA_TYPE}
    )


def test_a_model_id_is_what_the_client_computes(client):
    session = _post(client, "create_session").json()["session_id"]
    for number in (0, 1):
        asked = _post(
            client, "create_model", session_id=session, model_seq_id=number, base_model="noop"
        )
        assert asked.json()["model_id"] == f"{session}:train:{number}"
        assert _result(client, asked).json()["type"] == "create_model"


def test_requests_wait_for_those_before_them(client, model):
    """They come last first, as the SDK's pieces do, and are done in their order."""
    step = _post(client, "optim_step", model_id=model, seq_id=3, adam_params={})
    second = _forward(client, _batch(model, 2))
    promise = client.app.state.kitchen.work.get(second.json()["request_id"])
    assert not promise.future.done()
    first = _forward(client, _batch(model, 1))
    for asked in (first, second):
        answer = _result(client, asked)
        assert answer.headers["content-type"] == wire.MEDIA_TYPE
        output = wire._message("Output")()
        output.ParseFromString(answer.content)
        assert output.loss_fn_outputs[0].num_datums == 1
        assert output.metrics["loss:sum"] > 0
    assert _result(client, step).json()["metrics"]["step:max"] == 1.0


def test_a_request_that_comes_twice_is_done_once(client, model):
    one, two = (_forward(client, _batch(model, 1)).json() for _ in range(2))
    assert one == two
    steps = [_post(client, "optim_step", model_id=model, seq_id=2) for _ in range(2)]
    assert {_result(client, step).json()["metrics"]["step:max"] for step in steps} == {1.0}


def test_a_bad_batch_keeps_its_place_and_the_next_one_goes_on(client, model):
    bad = _result(client, _forward(client, _batch(model, 1, targets=(6,)))).json()
    assert bad["category"] == "user"
    assert "datums[0]" in bad["error"]
    long = _result(client, _forward(client, _batch(model, 2, [5] * 65, [5] * 65))).json()
    assert "at most 64 tokens, got 65" in long["error"]
    good = _result(client, _forward(client, _batch(model, 3)))
    assert good.headers["content-type"] == wire.MEDIA_TYPE


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        (
            "create_model",
            {"session_id": "no", "model_seq_id": 0, "base_model": "noop"},
            404,
            "no session",
        ),
        ("create_model", {"model_seq_id": 0}, 422, "session_id"),
        ("get_info", {"model_id": "no"}, 404, "no training run"),
        ("optim_step", {"model_id": "no", "seq_id": 1}, 404, "no training run"),
        ("retrieve_future", {"request_id": "no"}, 404, "no request"),
        ("weights_info", {"tinker_path": "no"}, 400, "tinker://RUN"),
        ("weights_info", {"tinker_path": "tinker://a/weights/../x"}, 400, "tinker://RUN"),
        ("asample", {"prompt": {"chunks": []}, "sampling_params": {}}, 400, "sampling_session_id"),
        ("nothing", {}, 404, "this server has no /api/v1/nothing"),
    ],
)
def test_what_cannot_be_done_is_said(client, path, body, status, said):
    answer = _post(client, path, **body)
    assert answer.status_code == status, answer.text
    assert said in str(answer.json()["detail"])


def test_a_request_that_this_server_does_not_have_keeps_nobody_waiting(client, model):
    lost = _post(client, "save_weights_elsewhere", model_id=model, seq_id=1, path="x")
    assert lost.status_code == 404
    step = _post(client, "optim_step", model_id=model, seq_id=2)
    assert _result(client, step).json()["metrics"]["step:max"] == 1.0


def test_a_load_is_of_a_session_or_of_an_open_model(client):
    for more in ({}, {"session_id": "s", "model_id": "m"}):
        answer = client.post("/api/v1/load_weights", json={"path": "tinker://a/weights/b", **more})
        assert answer.status_code == 400
        assert "either session_id or model_id" in answer.json()["detail"]


def test_an_option_that_is_not_supported_is_refused_by_name(client, model):
    session = model.partition(":")[0]
    base = {"session_id": session, "model_seq_id": 1, "base_model": "noop"}
    other = _post(client, "create_model", **base, lora_config={"rank": 4, "dora": True})
    assert "does not support dora" in str(other.json())
    dimuon = _post(client, "create_model", **base, optimizer_config={"type": "dimuon"})
    assert dimuon.status_code == 422
    nothing = {"train_mlp": False, "train_attn": False, "train_unembed": False}
    asked = _post(client, "create_model", **base, lora_config=nothing)
    assert "one of train_attn, train_mlp, train_unembed" in asked.json()["detail"]
    unknown = _post(client, "create_model", **{**base, "base_model": "other"})
    assert unknown.json()["detail"] == "base_model must be one of noop, got 'other'"
    sample = {"prompt": {"chunks": [{"tokens": [5]}]}, "sampling_params": {}, "base_model": "noop"}
    topk = _post(client, "asample", **sample, topk_sample_logprobs=3)
    assert "does not support topk_sample_logprobs" in str(topk.json())
    topk = _result(client, _post(client, "asample", **sample, topk_prompt_logprobs=3)).json()
    assert "has no top-k log probabilities" in topk["error"]  # the dry server's client has none


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("create_model", {"base_model": "noop", "model_seq_id": 10**300}),
        ("create_model", {"base_model": "noop", "lora_config": {"seed": 2**64}}),
        ("load_weights", {"path": "tinker://a/weights/b", "model_seq_id": 2**63}),
        ("create_sampling_session", {"base_model": "noop", "sampling_session_seq_id": 10**300}),
    ],
)
def test_numbers_that_no_program_counts_to_are_refused(client, path, body):
    session = _post(client, "create_session").json()["session_id"]
    answer = _post(client, path, **{"session_id": session, "model_seq_id": 0, **body})
    assert answer.status_code == 422, answer.text


def test_a_run_tells_when_it_was_last_asked_for_something(client, model):
    def asked():
        return client.get(f"/api/v1/training_runs/{model}").json()["last_request_time"]

    before = asked()
    _post(client, "optim_step", model_id=model, seq_id=1)
    assert asked() > before


def test_more_models_than_allowed_is_an_error_of_the_client(client, model):
    session = model.partition(":")[0]
    for number, fits in ((1, True), (2, False)):
        asked = _post(
            client, "create_model", session_id=session, model_seq_id=number, base_model="noop"
        )
        answer = _result(client, asked).json()
        assert ("model_id" in answer) == fits
    assert "2 models are open already" in answer["error"]
    assert client.post(f"/api/v1/sessions/{session}/finish", json={}).status_code == 200
    gone = _post(client, "optim_step", model_id=model, seq_id=1)
    assert gone.status_code == 400
    assert "is closed" in gone.json()["detail"]


def test_a_program_that_ended_without_a_word_makes_room(tmp_path):
    limits = {"max_models": 1, "silent_s": 1}
    clients = noop.TrainingClient(), noop.SamplingClient()
    kitchen = Kitchen(*clients, ["noop"], State(tmp_path), **limits)
    with testclient.TestClient(make_app(kitchen)) as client:
        silent, other = (_post(client, "create_session").json()["session_id"] for _ in range(2))

        def opened(session):
            new = {"session_id": session, "model_seq_id": 0, "base_model": "noop"}
            return _result(client, _post(client, "create_model", **new)).json()

        model = opened(silent)["model_id"]
        for _ in range(3):  # more than a second, in which it is heard of
            time.sleep(0.4)
            _post(client, "session_heartbeat", session_id=silent)
        assert "1 models are open already" in opened(other)["error"]
        time.sleep(1.1)
        third = _post(client, "create_session").json()["session_id"]
        assert "model_id" in opened(third)
        gone = _post(client, "optim_step", model_id=model, seq_id=1)
        assert "is closed" in gone.json()["detail"]
    kitchen.close()


def test_keys_are_asked_for_and_only_their_hashes_kept(kitchen):
    app = make_app(kitchen, api_keys=["tml-one", "tml-two"])
    with testclient.TestClient(app) as client:
        assert client.post("/api/v1/create_session", json={}).status_code == 401
        for key, status in (("tml-two", 200), ("tml-three", 401), ("", 401)):
            headers = {"X-API-Key": key}
            answer = client.post("/api/v1/create_session", json={}, headers=headers)
            assert answer.status_code == status
        assert client.get("/api/v1/healthz").status_code == 200
    kept = vars(Admission(app, keys=["tml-one"], max_body_bytes=1))
    assert "tml-one" not in repr(kept)


def test_a_body_that_is_too_long_is_refused(kitchen):
    with testclient.TestClient(make_app(kitchen, max_body_bytes=1000)) as client:
        answer = client.post("/api/v1/telemetry", content=b"x" * 1001)
        assert answer.status_code == 413

        def pieces():
            for _ in range(20):
                yield b"x" * 100

        assert client.post("/api/v1/forward_backward", content=pieces()).status_code == 411


def test_a_result_that_was_sent_is_counted(client, model, kitchen):
    asked = _forward(client, _batch(model, 1))
    size = len(_result(client, asked).content)
    _result(client, asked)
    assert kitchen.work._sent == {asked.json()["request_id"]: size}


def test_no_request_waits_for_one_that_a_server_before_this_one_got(tmp_path):
    """Or for one whose turn is over: it is refused at once, and what to go on from is said."""

    def started():
        training = noop.TrainingClient(weights_dir=tmp_path / "incoming")
        return Kitchen(training, noop.SamplingClient(), ["noop"], State(tmp_path))

    kitchen = started()
    with testclient.TestClient(make_app(kitchen)) as client:
        session = _post(client, "create_session").json()["session_id"]
        new = {"session_id": session, "model_seq_id": 0, "base_model": "noop"}
        model = _result(client, _post(client, "create_model", **new)).json()["model_id"]
        saved = _post(client, "save_weights", model_id=model, seq_id=1, path="kept")
        path = _result(client, saved).json()["path"]
        kitchen.work._again.clear()  # as after very many requests
        over = _post(client, "optim_step", model_id=model, seq_id=1)
        assert over.json()["detail"] == "seq_id must be 2 or more, got 1, which is over"
    kitchen.close()
    kitchen = started()
    with testclient.TestClient(make_app(kitchen)) as client:
        for number in (1, 2, 17):
            answer = _post(client, "optim_step", model_id=model, seq_id=number)
            assert answer.status_code == 400
            assert answer.json()["detail"].endswith(f"go on from {path}")
    kitchen.close()


def test_how_a_program_ended_is_kept(client, kitchen, tmp_path):
    session = _post(client, "create_session").json()["session_id"]
    for kind, status in (("lost", 422), ("errored", 200), ("success", 200)):
        body = {"reason": {"type": kind}, "detail": "out of flour"}
        assert _post(client, f"sessions/{session}/finish", **body).status_code == status
    told = {"reason": "errored", "detail": "out of flour"}  # what is said first
    assert client.get(f"/api/v1/sessions/{session}").json()["ended"] == told
    assert State(kitchen.state.folder).session(session).ended == told


def test_a_page_of_another_site_cannot_ask(client):
    """A browser sends text anywhere, but asks first before it sends JSON."""
    headers = {"content-type": "text/plain"}
    answer = client.post("/api/v1/create_session", content="{}", headers=headers)
    assert answer.status_code == 422
    assert "application/json" in str(answer.json()["detail"])


def test_metrics_are_lines_that_prometheus_reads(client, model):
    said = client.get("/metrics")
    assert said.headers["content-type"].startswith("text/plain")
    values = dict(line.split() for line in said.text.splitlines() if not line.startswith("#"))
    assert values["crucible_models_open"] == "1"
    assert values["crucible_requests_waiting"] == "0"
    _post(client, "optim_step", model_id=model, seq_id=2)  # waits for the first
    assert "crucible_requests_waiting 1" in client.get("/metrics").text


def test_records_outlive_the_process_and_a_damaged_one_is_named(tmp_path):
    state = State(tmp_path)
    kitchen = Kitchen(noop.TrainingClient(), noop.SamplingClient(), ["noop"], state)
    with testclient.TestClient(make_app(kitchen)) as client:
        session = _post(client, "create_session", user_metadata={"who": "me"}).json()["session_id"]
    kitchen.close()
    assert State(tmp_path).session(session).user_metadata == {"who": "me"}
    (tmp_path / "runs" / "x.json").write_text('{"id": 1')
    with pytest.raises(Refused, match=r"x.json must be a record"):
        State(tmp_path)


def test_a_checkpoint_whose_time_is_over_is_gone(tmp_path):
    from crucible_kitchen.serve.state import Checkpoint, Run

    state = State(tmp_path)
    run = state.save(Run("s:train:0", "s", "noop", 4, None, True, True, time.time()))
    folder = state.new_folder(run, "weights", "a")
    folder.mkdir(parents=True)
    past = Checkpoint("weights", "a", str(folder), None, 0.0, expires=1.0)
    path = state.add(run, past)
    with pytest.raises(NotFound, match="no checkpoint"):
        state.find(path)
    assert not folder.exists()
    with pytest.raises(Refused, match="must be a name of letters"):
        state.new_folder(run, "weights", "..")


# What is asked for, and names that some requests have.
PATHS = [
    *("create_session", "create_model", "load_weights", "get_info", "optim_step", "save_weights"),
    *("asample", "save_weights_for_sampler", "create_sampling_session", "retrieve_future"),
    *("weights_info", "session_heartbeat", "client/config", "save_weights_external"),
    *("copy_weights", "sessions/search"),
]
NAMES = [
    *("session_id", "model_id", "model_seq_id", "base_model", "seq_id", "path", "lora_config"),
    *("adam_params", "prompt", "sampling_params", "num_samples", "sampling_session_id"),
    *("request_id", "tinker_path", "optimizer", "source_path", "destination_project_id"),
    *("user_metadata", "statuses", "cursor", "owner", "limit"),
]
NOISE = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=6,
)


@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.sampled_from(PATHS), st.dictionaries(st.sampled_from(NAMES), NOISE, max_size=6))
def test_noise_is_never_an_error_of_the_server(client, path, body):
    answer = client.post(
        f"/api/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code < 500, answer.text
    answer.json()


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=60), st.randoms())
def test_noise_in_a_binary_body_is_never_an_error_of_the_server(client, noise, chance):
    body = bytearray(_batch("s:train:0", 1))
    for _ in range(3):
        body[chance.randrange(len(body))] = chance.randrange(256)
    for content in (noise, bytes(body)):
        answer = _forward(client, content)
        assert answer.status_code < 500, answer.text
        answer.json()


def test_the_dry_server_keeps_weights_to_draw_with(tmp_path):
    from crucible_kitchen import bootstrap
    from crucible_kitchen.errors import ConfigError

    kitchen = bootstrap.open_kitchen(["noop"], tmp_path)
    with testclient.TestClient(make_app(kitchen)) as client:
        session = _post(client, "create_session").json()["session_id"]
        new = {"session_id": session, "model_seq_id": 0, "base_model": "noop"}
        model = _result(client, _post(client, "create_model", **new)).json()["model_id"]
        named = {"model_id": model, "seq_id": 1, "path": "here"}
        asked = client.post("/api/v1/save_weights_for_sampler", json=named)
        saved = _result(client, asked).json()
        assert saved["path"] == f"tinker://{model}/sampler_weights/here"
        prompt = {"chunks": [{"tokens": [5, 6]}]}
        body = {"prompt": prompt, "sampling_params": {"max_tokens": 2}, "model_path": saved["path"]}
        samples = wire._message("Samples")()
        samples.ParseFromString(_result(client, _post(client, "asample", **body)).content)
        assert len(samples.sequences) == 1
    kitchen.close()
    with pytest.raises(ConfigError, match="noop must be served alone, got noop, smollm2-135m"):
        bootstrap.open_kitchen(["noop", "smollm2-135m"], tmp_path)


def test_overhead_of_a_step_is_a_few_milliseconds(client, model):
    """Measured here without a socket; `docs/serve.md` has the figure of the real SDK."""
    random.seed(0)
    took = []
    for turn in range(20):
        began = time.perf_counter()
        asked = _forward(client, _batch(model, 2 * turn + 1))
        step = _post(client, "optim_step", model_id=model, seq_id=2 * turn + 2)
        _result(client, asked)
        _result(client, step)
        took.append(time.perf_counter() - began)
    assert sorted(took)[10] < 0.1
