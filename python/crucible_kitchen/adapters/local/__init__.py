"""Training and sampling in this process, on this machine's devices, with this package's kernels."""

from crucible_kitchen.adapters.local.completer import Completer
from crucible_kitchen.adapters.local.evaluator import Evaluator
from crucible_kitchen.adapters.local.sampling_client import SamplingClient
from crucible_kitchen.adapters.local.training_client import TrainingClient

__all__ = ["Completer", "Evaluator", "SamplingClient", "TrainingClient"]
