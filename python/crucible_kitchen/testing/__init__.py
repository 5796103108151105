"""For tests: contracts that every adapter of a port must keep, and helpers for stages.

Five lines run all of a port's tests against yours::

    from crucible_kitchen.testing import BlobStoreContract

    class TestMyBlobStore(BlobStoreContract):
        @pytest.fixture
        def adapter(self, tmp_path):
            return MyBlobStore(tmp_path)

A contract's docstring says what else can be told about the adapter, such as the model to load.

`run_stage` runs one stage or block on a state that a test writes down, and `FakePort` is an adapter
of any port that records its calls and gives scripted answers.

Importing this package imports pytest; importing `crucible_kitchen` does not import this package.
"""

import pytest

# So that a contract's failing assertion shows its values in a user's test run, too.
pytest.register_assert_rewrite("crucible_kitchen.testing.contracts")

from .contracts import (  # noqa: E402 - after the line above, or it has no effect
    BlobStoreContract,
    CompleterContract,
    DatasetStoreContract,
    EvaluatorContract,
    HubClientContract,
    MetricsStoreContract,
    ModelRegistryContract,
    PortContract,
    SamplingClientContract,
    ScalarHeadContract,
    TokenizerContract,
    TrainingClientContract,
)
from .fake_port import FakePort, InTurn, PortCall  # noqa: E402 - as above
from .kill_at import kill_at  # noqa: E402
from .stages import StageRun, run_stage  # noqa: E402 - as above

__all__ = [
    "BlobStoreContract",
    "CompleterContract",
    "DatasetStoreContract",
    "EvaluatorContract",
    "FakePort",
    "HubClientContract",
    "InTurn",
    "MetricsStoreContract",
    "ModelRegistryContract",
    "PortCall",
    "PortContract",
    "SamplingClientContract",
    "ScalarHeadContract",
    "StageRun",
    "TokenizerContract",
    "TrainingClientContract",
    "kill_at",
    "run_stage",
]
