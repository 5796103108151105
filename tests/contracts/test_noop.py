"""Every noop adapter keeps its port's contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crucible_kitchen.adapters import noop
from crucible_kitchen.ports import PORTS
from crucible_kitchen.testing import (
    BlobStoreContract,
    CompleterContract,
    DatasetStoreContract,
    EvaluatorContract,
    HubClientContract,
    MetricsStoreContract,
    ModelRegistryContract,
    SamplingClientContract,
    ScalarHeadContract,
    TokenizerContract,
    TrainingClientContract,
)
from crucible_kitchen.testing.contracts import CONTRACTS


def test_every_port_has_a_contract_and_a_noop_adapter() -> None:
    assert [contract.port for contract in CONTRACTS] == list(PORTS.values())
    for port in PORTS.values():
        assert issubclass(getattr(noop, port.__name__), port)


class TestTrainingClient(TrainingClientContract):
    @pytest.fixture
    def adapter(self) -> Iterator[noop.TrainingClient]:
        client = noop.TrainingClient()
        yield client
        client.close()


class TestScalarHead(ScalarHeadContract):
    @pytest.fixture
    def adapter(self) -> Iterator[noop.TrainingClient]:
        client = noop.TrainingClient()
        yield client
        client.close()


class TestSamplingClient(SamplingClientContract):
    @pytest.fixture
    def adapter(self) -> noop.SamplingClient:
        return noop.SamplingClient()


class TestDatasetStore(DatasetStoreContract):
    @pytest.fixture
    def adapter(self) -> noop.DatasetStore:
        return noop.DatasetStore()


class TestBlobStore(BlobStoreContract):
    @pytest.fixture
    def adapter(self) -> noop.BlobStore:
        return noop.BlobStore()


class TestHubClient(HubClientContract):
    @pytest.fixture
    def adapter(self) -> Iterator[noop.HubClient]:
        files = {"config.json": b"{}", "sub/weights.bin": b"\x00"}
        client = noop.HubClient({"org/model": files})
        yield client
        client.close()


class TestMetricsStore(MetricsStoreContract):
    @pytest.fixture
    def adapter(self) -> noop.MetricsStore:
        return noop.MetricsStore()


class TestCompleter(CompleterContract):
    @pytest.fixture
    def adapter(self) -> noop.Completer:
        return noop.Completer()


class TestEvaluator(EvaluatorContract):
    @pytest.fixture
    def adapter(self) -> noop.Evaluator:
        return noop.Evaluator()


class TestModelRegistry(ModelRegistryContract):
    @pytest.fixture
    def adapter(self) -> noop.ModelRegistry:
        return noop.ModelRegistry()


class TestTokenizer(TokenizerContract):
    @pytest.fixture
    def tokenizer(self) -> noop.ByteTokenizer:
        return noop.ByteTokenizer()
