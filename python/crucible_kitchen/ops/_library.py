"""The torch library that all ops are registered in, as ``torch.ops.crucible_kitchen.NAME``."""

from __future__ import annotations

from torch.library import Library

LIBRARY = Library("crucible_kitchen", "DEF")
