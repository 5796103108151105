"""Ports: what a stage may ask of the world, as abstract classes. Adapters implement them."""

from .base import Port
from .blob_store import BlobStore
from .bundle import PORTS, Ports, find_problems, resolve
from .completer import Completer, Conversation, completion_params
from .dataset_store import BatchIterator, DatasetStore, Row
from .evaluator import Evaluator
from .future import Future
from .hub_client import HubClient
from .losses import CUSTOM_INPUTS, LOSSES, Loss, check_datums, check_loss
from .metrics_store import HasMetadata, MetricsStore, Run, metric_point, run_id_of
from .model_registry import ModelRegistry, already_registered, model_id, page
from .sampling_client import Params, Prompt, SamplingClient
from .session import Session, SessionConfig, check_head
from .tokenizer import Tokenizer
from .training_client import CustomLoss, Data, TrainingClient

__all__ = [
    "CUSTOM_INPUTS",
    "LOSSES",
    "PORTS",
    "BatchIterator",
    "BlobStore",
    "Completer",
    "Conversation",
    "CustomLoss",
    "Data",
    "DatasetStore",
    "Evaluator",
    "Future",
    "HasMetadata",
    "HubClient",
    "Loss",
    "MetricsStore",
    "ModelRegistry",
    "Params",
    "Port",
    "Ports",
    "Prompt",
    "Row",
    "Run",
    "SamplingClient",
    "Session",
    "SessionConfig",
    "Tokenizer",
    "TrainingClient",
    "already_registered",
    "check_datums",
    "check_head",
    "check_loss",
    "completion_params",
    "find_problems",
    "metric_point",
    "model_id",
    "page",
    "resolve",
    "run_id_of",
]
