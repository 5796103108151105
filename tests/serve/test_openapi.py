"""The server against requests made from its own OpenAPI description.

`CRUCIBLE_FUZZ_EXAMPLES` says how many each operation gets; the suite takes few.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings

from crucible_kitchen.adapters import noop
from crucible_kitchen.serve import Kitchen, State

schemathesis = pytest.importorskip("schemathesis", reason="pip install 'crucible-kitchen[test]'")
testclient = pytest.importorskip(
    "fastapi.testclient", reason="pip install 'crucible-kitchen[serve]'"
)

from crucible_kitchen.serve import wire  # noqa: E402
from crucible_kitchen.serve.app import make_app  # noqa: E402

FEW = 5
EXAMPLES = int(os.environ.get("CRUCIBLE_FUZZ_EXAMPLES", FEW))


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    training = noop.TrainingClient(weights_dir=folder / "incoming")
    one = Kitchen(training, noop.SamplingClient(), ["noop"], State(folder))
    yield one
    one.close()


@pytest.fixture(scope="module")
def client(kitchen):
    with testclient.TestClient(make_app(kitchen)) as one:
        yield one


def _post(client, endpoint, **body):
    answer = client.post(f"/api/v1/{endpoint}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _opened(client):
    """A session with a model; its ids."""
    session = _post(client, "create_session")["session_id"]
    new = {"session_id": session, "model_seq_id": 0, "base_model": "noop"}
    asked = _post(client, "create_model", **new)
    done = _post(client, "retrieve_future", request_id=asked["request_id"])
    return {"session_id": session, "model_id": done["model_id"], "run_id": done["model_id"]}


@pytest.fixture(scope="module")
def bystander(client, kitchen):
    """A program that runs all the while; in the end nothing of it is lost."""
    ids = _opened(client)
    step = {"model_id": ids["model_id"], "adam_params": {}}
    for number in (1, 2):
        asked = _post(client, "optim_step", **step, seq_id=number)
    _post(client, "retrieve_future", request_id=asked["request_id"])
    saved = _post(client, "save_weights", model_id=ids["model_id"], seq_id=3, path="kept")
    path = _post(client, "retrieve_future", request_id=saved["request_id"])["path"]
    yield
    asked = _post(client, "optim_step", **step, seq_id=4)
    done = _post(client, "retrieve_future", request_id=asked["request_id"])
    assert done["metrics"]["step:max"] == 3.0
    assert _post(client, "weights_info", tinker_path=path)["base_model"] == "noop"
    again = State(kitchen.state.folder)
    assert again.runs.keys() == kitchen.state.runs.keys()
    assert again.sessions.keys() == kitchen.state.sessions.keys()


@pytest.fixture(scope="module")
def victim(client):
    """Ids of a session that requests may be about, where they must be about one."""
    return _opened(client)


def test_what_fits_the_description_is_answered(client, bystander, victim):
    schemathesis.serializer.alias(wire.MEDIA_TYPE, "application/octet-stream")
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 25
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=EXAMPLES == FEW,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy())
        def ask(case):
            for said in (case.body, case.path_parameters):
                if isinstance(said, dict):
                    said.update({name: victim[name] for name in victim.keys() & said.keys()})
            answer = case.call()
            assert answer.status_code < 500, answer.text
            assert "Traceback" not in answer.text
            if answer.status_code >= 400:
                assert answer.json()["detail"]

        ask()
