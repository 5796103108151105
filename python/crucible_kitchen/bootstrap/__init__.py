"""Puts a run together; the only package that names concrete adapters."""

from crucible_kitchen.bootstrap.planning import plan, preview, validate
from crucible_kitchen.bootstrap.running import arun, run
from crucible_kitchen.bootstrap.serving import open_kitchen
from crucible_kitchen.bootstrap.table import (
    ADAPTERS,
    find_hub,
    load_adapter,
    load_exporter,
    named_adapters,
)
from crucible_kitchen.recipes import describe

__all__ = [
    "ADAPTERS",
    "arun",
    "describe",
    "find_hub",
    "load_adapter",
    "load_exporter",
    "named_adapters",
    "open_kitchen",
    "plan",
    "preview",
    "run",
    "validate",
]
