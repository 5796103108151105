"""Adapters that do nothing outside this process, and the same thing every time."""

from .blob_store import BlobStore
from .completer import Completer
from .dataset_store import DatasetStore
from .evaluator import Evaluator
from .hub_client import HubClient
from .metrics_store import MetricsStore
from .model_registry import ModelRegistry
from .sampling_client import SamplingClient
from .tokenizer import ByteTokenizer
from .training_client import TrainingClient

__all__ = [
    "BlobStore",
    "ByteTokenizer",
    "Completer",
    "DatasetStore",
    "Evaluator",
    "HubClient",
    "MetricsStore",
    "ModelRegistry",
    "SamplingClient",
    "TrainingClient",
]
