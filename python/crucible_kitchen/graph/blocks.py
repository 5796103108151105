"""What all blocks have in common. Brackets hold what runs, parentheses hold options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

from crucible_kitchen.errors import CrucibleError, did_you_mean

from .signature import Defect
from .stage import ClassStage, StageNode, class_node, snake_case
from .stage_options import NAME_ADVICE, NAME_RULE, is_name
from .values import Value

B = TypeVar("B")
Filled = TypeVar("Filled", bound="Block")
MISSING: Any = object()


@dataclass(frozen=True)
class Alien:
    """Something in a workflow that is no stage and no block; validation reports it."""

    kind: ClassVar[str] = "alien"

    name: str
    source: str = field(default="", compare=False)
    defects: tuple[Defect, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Block:
    """What all blocks are: a name, what runs inside, and where they were declared."""

    kind: ClassVar[str] = "block"
    named: ClassVar[bool] = True
    """False where the name comes from a predicate, so that two may be the same by chance."""

    name: str
    body: tuple[Node, ...] = ()
    source: str = field(default="", compare=False)
    defects: tuple[Defect, ...] = field(default=(), compare=False)

    @property
    def values(self) -> tuple[tuple[str, Value], ...]:
        """What it asks for when it runs, by name of the option."""
        return ()

    @property
    def options(self) -> dict[str, Any]:
        """What else was written in its parentheses, by name, where it is not the default."""
        return {}

    @property
    def regions(self) -> tuple[tuple[str, tuple[Node, ...]], ...]:
        """Its bodies; the main one has an empty name, the others are compound nodes inside it.

        A region called ``x`` is the field ``x_body``, the main one is `body`.
        """
        return (("", self.body),)

    def __getitem__(self: Filled, items: Any) -> Filled:
        return replace(self, body=as_nodes(items, self.source))


Node = StageNode | Block | Alien
ERROR_KEYS = ("on_error.error", "on_error.stage")


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every node below and including this one, with its path."""
    waiting = [(f"{path}/{node.name}" if path else node.name, node)]
    while waiting:  # the last one is the next
        here, node = waiting.pop()
        yield here, node
        if isinstance(node, Block):
            for label, body in reversed(node.regions):
                inside = f"{here}/{label}" if label else here
                waiting += [(f"{inside}/{child.name}", child) for child in reversed(body)]


class Brackets(Generic[B]):
    """Waits for the brackets after an attribute such as ``.otherwise``."""

    def __init__(self, fill: Callable[[tuple[Node, ...]], B]) -> None:
        self._fill = fill

    def __getitem__(self, items: Any) -> B:
        return self._fill(as_nodes(items, caller(1)))


def caller(depth: int) -> str:
    """``file:line`` of a frame further up."""
    frame = sys._getframe(depth + 1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def name_defects(what: str, name: object) -> tuple[Defect, ...]:
    """What is wrong with the name given to a block."""
    if isinstance(name, str) and is_name(name):
        return ()
    message = f"{what}: name must be {NAME_RULE}, got {name!r}"
    return (Defect("bad-option", message, NAME_ADVICE),)


def unknown_options(what: str, unknown: Iterable[str], known: Iterable[str]) -> tuple[Defect, ...]:
    """One defect for each option that a block does not have."""
    return tuple(
        Defect("unknown-option", f"{what}: unknown option {option!r}", did_you_mean(option, known))
        for option in unknown
    )


def count_defects(option: str, value: object, least: int) -> tuple[Defect, ...]:
    """What is wrong with an option that must be a whole number; None is always right."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return ()
    message = f"{option} must be an int of at least {least}, got {value!r}"
    return (Defect("bad-option", message, "pass a whole number, or leave it out"),)


def as_nodes(items: Any, source: str) -> tuple[Node, ...]:
    """What stands in brackets, as nodes; unnamed blocks of one bracket are numbered.

    Args:
        items: one item or a tuple of them; lists and tuples inside are flattened.
        source: ``file:line`` to name for what is no stage.
    """
    nodes: list[Node] = []
    taken: dict[str, int] = {}
    for node in _flatten(items, source):
        if isinstance(node, Block) and not node.named:
            taken[node.name] = count = taken.get(node.name, 0) + 1
            node = replace(node, name=f"{node.name}_{count}") if count > 1 else node
        nodes.append(node)
    return tuple(nodes)


def _flatten(items: Any, source: str) -> list[Node]:
    if isinstance(items, (tuple, list)):
        return [node for item in items for node in _flatten(item, source)]
    if isinstance(items, (StageNode, Alien, Block)) and items.kind != "workflow":
        return [items]
    if isinstance(items, ClassStage):
        return [class_node(items)]
    if isinstance(items, type) and issubclass(items, ClassStage):
        try:
            return [class_node(items())]
        except (CrucibleError, TypeError) as error:
            name = snake_case(items.__name__)
            advice = f"pass its options: {items.__name__}(...)"
            return [Alien(name, items.declared_at, (Defect("bad-option", str(error), advice),))]
    return [_alien(items, source)]


def _alien(item: Any, source: str) -> Alien:
    name = getattr(item, "__name__", None) or type(item).__name__
    if isinstance(item, Block):
        name = item.name
    shown = f"the function {name!r}" if callable(item) and hasattr(item, "__code__") else repr(item)
    advice = "a stage is a function with @stage, or a class derived from Stage"
    if isinstance(item, Brackets):
        shown, advice = "an open bracket", "write .otherwise[...] or .finally_[...]"
    elif isinstance(item, Block) or (isinstance(item, type) and issubclass(item, Block)):
        shown, advice = f"the workflow {name!r}", 'put it in a scope: scope("name")[other.body]'
    return Alien(name, source, (Defect("not-a-stage", f"{shown[:120]} is not a stage", advice),))
