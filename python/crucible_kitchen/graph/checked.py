"""`Checked`: what the rules of validation look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from crucible_kitchen.errors import Problem
from crucible_kitchen.ports import Ports

from .blocks import Node
from .flow import Flow
from .workflow import Workflow


@dataclass(frozen=True)
class Checked:
    """A workflow with what the rules look at.

    Args:
        config: fields and values; None where it is not known yet.
        closed: whether the configuration has been checked by a schema of its own.
        adapters: as the user passes them; None where they are not known yet.
    """

    workflow: Workflow
    nodes: tuple[tuple[str, Node], ...]
    flow: Flow
    config: Mapping[str, Any] | None
    closed: bool
    adapters: Mapping[str, Any] | Ports | None
    known_keys: frozenset[str] = field(default_factory=frozenset)


Rule = Callable[[Checked], Iterator[Problem]]


def short(source: str) -> str:
    """``sft.py:12`` of a longer path."""
    return source.replace("\\", "/").rpartition("/")[2] or "?"
