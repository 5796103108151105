"""Training and sampling in this process, on this machine's devices, with this package's kernels."""

from crucible_kitchen.adapters.local.comparator import Comparator
from crucible_kitchen.adapters.local.completer import Completer
from crucible_kitchen.adapters.local.evaluator import Evaluator
from crucible_kitchen.adapters.local.exporter import Exported, export
from crucible_kitchen.adapters.local.reward_model import RewardModel
from crucible_kitchen.adapters.local.sampling_client import SamplingClient
from crucible_kitchen.adapters.local.training_client import TrainingClient

__all__ = [
    "Comparator",
    "Completer",
    "Evaluator",
    "Exported",
    "RewardModel",
    "SamplingClient",
    "TrainingClient",
    "export",
]
