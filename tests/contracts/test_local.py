"""The local backend keeps the contracts of its ports, on a tiny random model."""

import pytest

from crucible_kitchen.adapters.local import Completer, SamplingClient, TrainingClient
from crucible_kitchen.adapters.local.tokenizer import load_tokenizer
from crucible_kitchen.testing.contracts import (
    CompleterContract,
    SamplingClientContract,
    ScalarHeadContract,
    TokenizerContract,
    TrainingClientContract,
)
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


def config(folder):
    return {"model": folder, "dtype": "float32", "lora_rank": 4}


def closing(adapter):
    yield adapter
    adapter.close()


class TestTrainingClient(TrainingClientContract):
    @pytest.fixture
    def adapter(self, folder, monkeypatch):
        monkeypatch.setattr(type(self), "config", config(folder))
        yield from closing(TrainingClient(device="cpu"))


class TestScalarHead(ScalarHeadContract):
    @pytest.fixture
    def adapter(self, folder, monkeypatch):
        monkeypatch.setattr(type(self), "config", {**config(folder), "head": "scalar"})
        yield from closing(TrainingClient(device="cpu"))


class TestSamplingClient(SamplingClientContract):
    @pytest.fixture
    def adapter(self, folder, monkeypatch):
        monkeypatch.setattr(type(self), "config", config(folder))
        yield from closing(SamplingClient(device="cpu"))


class TestLiveSamplingClient(SamplingClientContract):
    """The same on the weights of a session in training."""

    @pytest.fixture
    def adapter(self, folder, monkeypatch):
        monkeypatch.setattr(type(self), "config", config(folder))
        client = TrainingClient(device="cpu")
        client.start_session(config(folder))
        yield from closing(SamplingClient(training_client=client))
        client.close()


class TestCompleter(CompleterContract):
    @pytest.fixture
    def adapter(self, folder):
        yield from closing(Completer(folder, dtype="float32", device="cpu"))


class TestTokenizer(TokenizerContract):
    @pytest.fixture
    def tokenizer(self, folder):
        return load_tokenizer(folder, port="training_client")


class TestLiveCompleter(CompleterContract):
    """The same on the weights of a session in training."""

    @pytest.fixture
    def adapter(self, folder):
        client = TrainingClient(device="cpu")
        session = client.start_session(config(folder))
        yield Completer(training_client=client, session=session)
        client.close()
