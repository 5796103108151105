"""Optimizers for torch, computed by the ops of this package."""

from crucible_kitchen.optim.adamw import AdamW

__all__ = ["AdamW"]
