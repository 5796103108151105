"""The Tinker API, through its official SDK: the hosted service, or a `crucible serve`."""

from .completer import Completer
from .sampling_client import SamplingClient
from .training_client import TrainingClient

__all__ = ["Completer", "SamplingClient", "TrainingClient"]
