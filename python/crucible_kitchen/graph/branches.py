"""Blocks that choose: `when`, and `switch` with its `case`s."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from .blocks import Block, Brackets, Node, caller
from .signature import Defect
from .values import Value, as_value


@dataclass(frozen=True)
class When(Block):
    """Runs its body where a predicate holds, and what is in ``.otherwise[...]`` where not."""

    kind: ClassVar[str] = "when"
    named: ClassVar[bool] = False

    predicate: Value = field(default_factory=lambda: Value("literal", True))
    otherwise_body: tuple[Node, ...] | None = None

    @property
    def otherwise(self) -> Brackets[When]:
        """``when(p)[...].otherwise[...]``"""
        return Brackets(lambda nodes: replace(self, otherwise_body=nodes))

    @property
    def values(self) -> tuple[tuple[str, Value], ...]:
        return (("predicate", self.predicate),)

    @property
    def regions(self) -> tuple[tuple[str, tuple[Node, ...]], ...]:
        if self.otherwise_body is None:
            return (("", self.body),)
        return (("", self.body), ("otherwise", self.otherwise_body))


@dataclass(frozen=True)
class Case(Block):
    """One branch of a `switch`: runs where the value is one of `matches`."""

    kind: ClassVar[str] = "case"
    named: ClassVar[bool] = False

    matches: tuple[Any, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        return {"matches": list(map(repr, self.matches))}


@dataclass(frozen=True)
class Switch(Block):
    """Runs the `case` that a value names, or ``.otherwise[...]``; see `switch`."""

    kind: ClassVar[str] = "switch"
    named: ClassVar[bool] = False

    on: Value = field(default_factory=lambda: Value("literal", None))
    otherwise_body: tuple[Node, ...] | None = None

    @property
    def otherwise(self) -> Brackets[Switch]:
        """``switch(key)[case(...)[...]].otherwise[...]``"""
        return Brackets(lambda nodes: replace(self, otherwise_body=nodes))

    @property
    def cases(self) -> tuple[Case, ...]:
        """Its branches; validation reports whatever else stands in its brackets."""
        return tuple(node for node in self.body if isinstance(node, Case))

    @property
    def values(self) -> tuple[tuple[str, Value], ...]:
        return (("on", self.on),)

    @property
    def regions(self) -> tuple[tuple[str, tuple[Node, ...]], ...]:
        if self.otherwise_body is None:
            return (("", self.body),)
        return (("", self.body), ("otherwise", self.otherwise_body))


def when(predicate: Any) -> When:
    """Branch: ``when(should_eval)[evaluate].otherwise[skip]``.

    Args:
        predicate: callable whose parameters are keys, key, or truth value.
    """
    value = as_value(predicate, 2)
    return When(value.name or "when", source=caller(1), predicate=value)


def switch(on: Any) -> Switch:
    """Choose: ``switch("method")[case("sft")[train], case("dpo", "ipo")[prefer]].otherwise[skip]``.

    Cases stand in brackets like everything else that runs, so each has a line of its own in errors
    and can be edited by name. A value that no case names fails the run, unless there is an
    ``otherwise``.

    Args:
        on: callable whose parameters are keys, key, or value; compared with ``==``.
    """
    value = as_value(on, 2)
    return Switch(value.name or "switch", source=caller(1), on=value)


def case(*matches: Any) -> Case:
    """A branch of a `switch`.

    Args:
        *matches: values it is for: texts, numbers, members of an enum.
    """
    defects = [
        Defect(
            "bad-option",
            f"case: a value must be hashable, got {type(value).__name__}",
            "a text, a number, or a member of an enum",
        )
        for value in matches
        if not isinstance(value, Hashable)
    ]
    if not matches:
        defects.append(Defect("bad-option", "case: names no value", 'write case("value")[...]'))
    shown = "_".join(str(getattr(value, "name", value)) for value in matches)
    name = re.sub(r"[^\w-]+", "_", shown) or "case"
    return Case(name, source=caller(1), defects=tuple(defects), matches=matches)
