"""Contract tests: what every adapter of a port must do, for adapters of your own.

Five lines run all of a port's tests against yours::

    from crucible_kitchen.testing import BlobStoreContract

    class TestMyBlobStore(BlobStoreContract):
        @pytest.fixture
        def adapter(self, tmp_path):
            return MyBlobStore(tmp_path)

A contract's docstring says what else can be told about the adapter, such as the model to load.
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
from .kill_at import kill_at  # noqa: E402

__all__ = [
    "BlobStoreContract",
    "CompleterContract",
    "DatasetStoreContract",
    "EvaluatorContract",
    "HubClientContract",
    "MetricsStoreContract",
    "ModelRegistryContract",
    "PortContract",
    "SamplingClientContract",
    "ScalarHeadContract",
    "TokenizerContract",
    "TrainingClientContract",
    "kill_at",
]
