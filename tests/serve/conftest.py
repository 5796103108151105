"""A server in a process of its own, and one in this process, with a tiny model."""

import gc
import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from crucible_kitchen.adapters import local
from crucible_kitchen.serve import Kitchen, State
from crucible_kitchen.testing.tiny_model import tiny_llama

MEDIA_TYPE = "application/x-protobuf"


@dataclass
class Server:
    """A running server."""

    model: str
    state_dir: Path
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    url: str = ""
    key: str = ""

    def start(self) -> None:
        command = [sys.executable, "-m", "crucible_kitchen.cli", "serve", "--port", "0"]
        command += ["--model", self.model, "--state-dir", str(self.state_dir), *self.arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = [self.process.stdout.readline().strip() for _ in range(2)]
        values = dict(line.removeprefix("export ").split("=", 1) for line in said)
        self.url, self.key = values["TINKER_BASE_URL"], values["TINKER_API_KEY"]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()


def _collect() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(autouse=True)
def _what_the_sdk_leaves_open_is_nobody_s_fault():
    """Its sockets are collected here, where their warning is no error of a later test."""
    yield
    if "tinker" in sys.modules:
        _collect()


@pytest.fixture(autouse=True, scope="module")
def _nor_is_what_it_leaves_open_for_a_module():
    yield
    if "tinker" in sys.modules:
        _collect()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> str:
    return str(tiny_llama(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="session")
def server(tmp_path_factory, tiny_folder) -> Iterator[Server]:
    pytest.importorskip("uvicorn", reason="pip install 'crucible-kitchen[serve]'")
    # Programs of earlier tests that did not say goodbye keep their models for two minutes.
    many = ("--max-models", "100")
    one = Server(tiny_folder, tmp_path_factory.mktemp("state"), many)
    one.start()
    yield one
    one.kill()


class Door:
    """Asks a server of this process; every model and sampler has numbers of its own."""

    def __init__(self, client, base, messages):
        self.client, self.base, self._messages = client, base, messages
        self.session = self.post("create_session")["session_id"]
        self._models, self._numbers = itertools.count(), {}

    def ask(self, path, /, **body):
        return self.client.post(f"/api/v1/{path}", json=body)

    def post(self, path, /, **body):
        answer = self.ask(path, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path, /, **query):
        answer = self.client.get(f"/api/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path, naming, status=(400, 422), /, **body):
        answer = self.ask(path, **body)
        assert answer.status_code in status, answer.text
        assert naming in json.dumps(answer.json()["detail"])

    def result(self, asked):
        answer = self.ask("retrieve_future", request_id=asked["request_id"])
        if answer.headers["content-type"] != MEDIA_TYPE:
            return answer.json()
        kind = self._messages.SampleResponse if "sample_sequence_ids" in asked else None
        message = (kind or self._messages.ForwardBackwardOutput)()
        message.ParseFromString(answer.content)
        return message

    def done(self, path, /, **body):
        return self.result(self.post(path, **body))

    def number(self, model):
        self._numbers[model] = self._numbers.get(model, 0) + 1
        return self._numbers[model]

    def model(self, lora=None, **fields):
        new = {"session_id": self.session, "model_seq_id": next(self._models)}
        config = {"rank": 4, "seed": 1, **(lora or {})}
        body = {**new, "base_model": self.base, "lora_config": config, **fields}
        return self.done("create_model", **body)["model_id"]

    def of(self, path, model, /, **body):
        return self.done(path, model_id=model, seq_id=self.number(model), **body)

    def send(self, message):
        headers = {"content-type": MEDIA_TYPE}
        content = message.SerializeToString()
        answer = self.client.post("/api/v1/forward_backward", content=content, headers=headers)
        assert answer.status_code == 200, answer.text
        return self.result(answer.json())

    def loss(self, model, **fields):
        got = self.send(self.batch(model, **fields))
        return got.metrics["loss:sum"] if hasattr(got, "metrics") else got["error"]

    def trained(self, adam=None, lora=None, steps=3):
        """The loss after some steps."""
        model = self.model(lora)
        for _ in range(steps):
            self.loss(model)
            self.of("optim_step", model, adam_params={"learning_rate": 1e-2, **(adam or {})})
        return self.loss(model)

    def sample(self, prompt=(5, 6, 7), params=None, **fields):
        return self.done("asample", **self.sampling(prompt, params, **fields))

    def sampling(self, prompt=(5, 6, 7), params=None, **fields):
        chunks = {"chunks": [{"tokens": list(prompt), "type": "encoded_text"}]}
        how = {"max_tokens": 8, "seed": 3, **(params or {})}
        source = (
            {} if {"sampling_session_id", "model_path"} & set(fields) else {"base_model": self.base}
        )
        return {"prompt": chunks, "sampling_params": how, **source, **fields}

    def tokens(self, **params):
        (drawn,) = self.sample(params=params).sequences
        return np.frombuffer(drawn.tokens, "<i4").tolist()

    def batch(self, model, loss_fn="cross_entropy", **fields):
        """A request for a loss, as the SDK's own message."""
        place = {"model_id": model, "seq_id": self.number(model)}
        message = self._messages.ForwardBackwardRequest(**place, loss_fn=loss_fn, **fields)
        if not message.data:
            message.data.append(self.datum())
        return message

    def datum(self, **inputs):
        one = self._messages.Datum()
        one.model_input.add().encoded_text.tokens = np.arange(5, 13, dtype="<i4").tobytes()
        for name, values in {"target_tokens": np.arange(6, 14), **inputs}.items():
            tensor, whole = one.loss_fn_inputs[name], name == "target_tokens"
            tensor.dense = np.asarray(values, "<i8" if whole else "<f4").tobytes()
            kind = "DTYPE_INT64" if whole else "DTYPE_FLOAT32"
            tensor.dtype = getattr(self._messages, kind)
            tensor.shape.append(len(values))
        return one


@pytest.fixture(scope="module")
def door(tmp_path_factory, tiny_folder):
    messages = pytest.importorskip("tinker.proto.tinker_public_pb2")
    testclient = pytest.importorskip(
        "fastapi.testclient", reason="pip install 'crucible-kitchen[serve]'"
    )
    from crucible_kitchen.serve.app import make_app

    folder = tmp_path_factory.mktemp("state")
    training = local.TrainingClient(device="cpu", weights_dir=folder / "incoming")
    sampling = local.SamplingClient(beside=training)
    kitchen = Kitchen(training, sampling, [tiny_folder], State(folder), max_models=100)
    with testclient.TestClient(make_app(kitchen)) as client:
        yield Door(client, tiny_folder, messages)
    kitchen.close()
    training.close()


@pytest.fixture
def fields_of():
    """Names of all fields of kinds of requests, and of binary messages."""

    def fields(kinds, names=()):
        for kind in kinds:
            own = getattr(kind, "model_fields", None) or kind.__dataclass_fields__
            yield from (f"{kind.__name__}.{name}" for name in own if name != "type")
        for name in names:
            messages = pytest.importorskip("tinker.proto.tinker_public_pb2").DESCRIPTOR
            own = messages.message_types_by_name[name].fields
            yield from (f"{name}.{field.name}" for field in own)

    return fields
