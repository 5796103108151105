"""Ports: what a stage may ask of the world, as abstract classes. Adapters implement them.

What needs numpy or pydantic loads when it is first used, so that the engine's import needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import Port
from .blob_store import BlobStore
from .bundle import PORTS, Ports, find_problems, resolve
from .completer import Completer, Conversation, completion_params
from .dataset_store import BatchIterator, DatasetStore, Row
from .evaluator import Evaluator
from .future import Future
from .hub_client import HubClient
from .metrics_store import HasMetadata, MetricsStore, Run, metric_point, run_id_of
from .model_registry import ModelRegistry, already_registered, model_id, page
from .sampling_client import Params, Prompt, SamplingClient
from .session import Session, check_head
from .tokenizer import Tokenizer
from .training_client import CustomLoss, Data, TrainingClient

if TYPE_CHECKING:
    from .losses import CUSTOM_INPUTS, LOSSES, Loss, check_datums, check_loss
    from .session_config import SessionConfig

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

_LATER = {
    "losses": ("CUSTOM_INPUTS", "LOSSES", "Loss", "check_datums", "check_loss"),
    "session_config": ("SessionConfig",),
}
_HOME_OF = {name: home for home, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
