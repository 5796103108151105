"""`Checked`: what the rules of validation look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from crucible_kitchen.errors import Problem
from crucible_kitchen.ports import Ports

from .facts import Facts
from .workflow import Workflow


@dataclass(frozen=True)
class Checked:
    """A workflow and what it is to run with.

    Args:
        facts: of the workflow.
        config: fields and values; None where it is not known yet.
        closed: whether the configuration has been checked by a schema of its own.
        adapters: as the user passes them; None where they are not known yet.
    """

    workflow: Workflow
    facts: Facts
    config: Mapping[str, Any] | None
    closed: bool
    adapters: Mapping[str, Any] | Ports | None

    @cached_property
    def known_keys(self) -> frozenset[str]:
        """Keys that stages write and those of the configuration."""
        written = (key for key in self.facts.flow.writers if "[]" not in key)
        return frozenset(written) | frozenset(self.config or ())


Rule = Callable[[Checked], Iterator[Problem]]


def short(source: str) -> str:
    """``sft.py:12`` of a longer path."""
    return source.replace("\\", "/").rpartition("/")[2] or "?"
