"""Our kernels in other people's torch code: `patch` for models of transformers and PEFT."""

from crucible_kitchen.integrations.callback import KernelsCallback
from crucible_kitchen.integrations.patching import patch
from crucible_kitchen.integrations.report import Part, PatchReport

__all__ = ["KernelsCallback", "Part", "PatchReport", "patch"]
