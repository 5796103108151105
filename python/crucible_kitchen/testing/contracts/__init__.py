"""One contract a port; see `crucible_kitchen.testing`."""

from .base import PortContract
from .blob_store import BlobStoreContract
from .completer import CompleterContract
from .dataset_store import DatasetStoreContract
from .evaluator import EvaluatorContract
from .hub_client import HubClientContract
from .metrics_store import MetricsStoreContract
from .model_registry import ModelRegistryContract
from .sampling_client import SamplingClientContract
from .scalar_head import ScalarHeadContract
from .tokenizer import TokenizerContract
from .training_client import TrainingClientContract

CONTRACTS = (
    TrainingClientContract,
    SamplingClientContract,
    DatasetStoreContract,
    BlobStoreContract,
    HubClientContract,
    MetricsStoreContract,
    CompleterContract,
    EvaluatorContract,
    ModelRegistryContract,
)
"""The contract of every port."""

__all__ = [
    "CONTRACTS",
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
]
