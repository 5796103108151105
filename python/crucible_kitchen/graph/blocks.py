"""Blocks: `workflow`, `loop` and `when`. Brackets hold what runs, parentheses hold options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

from crucible_kitchen.errors import CrucibleError, did_you_mean

from .signature import Defect
from .stage import NAME_RULE, Stage, StageNode, class_node, is_name, snake_case
from .values import Value, as_value

B = TypeVar("B")
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

    name: str
    body: tuple[Node, ...] = ()
    source: str = field(default="", compare=False)
    defects: tuple[Defect, ...] = field(default=(), compare=False)

    @property
    def values(self) -> tuple[tuple[str, Value], ...]:
        """What it asks for when it runs, by name of the option."""
        return ()

    @property
    def regions(self) -> tuple[tuple[str, tuple[Node, ...]], ...]:
        """Its bodies; the main one has an empty name, the others are compound nodes inside it."""
        return (("", self.body),)


Node = StageNode | Block | Alien
ERROR_KEYS = ("on_error.error", "on_error.stage")


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every node below and including this one, with its path."""
    here = f"{path}/{node.name}" if path else node.name
    yield here, node
    if isinstance(node, Block):
        for label, body in node.regions:
            inside = f"{here}/{label}" if label else here
            for child in body:
                yield from walk(child, inside)


class Brackets(Generic[B]):
    """Waits for the brackets after an attribute such as ``.otherwise``."""

    def __init__(self, fill: Callable[[tuple[Node, ...]], B]) -> None:
        self._fill = fill

    def __getitem__(self, items: Any) -> B:
        return self._fill(as_nodes(items, _caller(1)))


@dataclass(frozen=True)
class Loop(Block):
    """Repeats its body, once for each item or while a predicate holds; see `loop`."""

    kind: ClassVar[str] = "loop"

    over: Value | None = None
    while_: Value | None = None
    max_iterations: int | None = None

    def __getitem__(self, items: Any) -> Loop:
        return replace(self, body=as_nodes(items, self.source))

    @property
    def variables(self) -> tuple[str, str]:
        """Keys that exist inside the loop only: the item and its index."""
        return f"{self.name}.item", f"{self.name}.index"

    @property
    def values(self) -> tuple[tuple[str, Value], ...]:
        options = (("over", self.over), ("while_", self.while_))
        return tuple((name, value) for name, value in options if value is not None)


@dataclass(frozen=True)
class When(Block):
    """Runs its body where a predicate holds, and what is in ``.otherwise[...]`` where not."""

    kind: ClassVar[str] = "when"

    predicate: Value = field(default_factory=lambda: Value("literal", True))
    otherwise_body: tuple[Node, ...] | None = None

    def __getitem__(self, items: Any) -> When:
        return replace(self, body=as_nodes(items, self.source))

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


@dataclass(frozen=True, init=False)
class Workflow(Block):
    """A workflow: an immutable, hashable, comparable value; see `workflow`.

    As a base class it reads `body` (and `finally_`, `on_error`) of the subclass, whose methods the
    names given to `loop` and `when` then mean; calling the subclass gives the value.
    """

    kind: ClassVar[str] = "workflow"

    finally_body: tuple[Node, ...] | None = None
    on_error_body: tuple[Node, ...] | None = None

    def __new__(cls, *args: Any, **fields: Any) -> Workflow:
        if cls is Workflow:
            return object.__new__(cls)
        from .class_form import value_of

        return value_of(cls)

    def __init__(
        self,
        name: str,
        body: tuple[Node, ...] = (),
        source: str = "",
        defects: tuple[Defect, ...] = (),
        finally_body: tuple[Node, ...] | None = None,
        on_error_body: tuple[Node, ...] | None = None,
    ) -> None:
        for key, value in locals().items():
            if key != "self":
                object.__setattr__(self, key, value)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._source = _caller(1)

    _source: ClassVar[str] = ""
    _owner: ClassVar[Workflow]

    def __getitem__(self, items: Any) -> Workflow:
        return replace(self, body=as_nodes(items, self.source))

    @property
    def finally_(self) -> Brackets[Workflow]:
        """``workflow("w")[...].finally_[...]``: runs whatever happened, also on Ctrl-C."""
        return Brackets(lambda nodes: replace(self, finally_body=nodes))

    @property
    def on_error(self) -> Brackets[Workflow]:
        """``workflow("w")[...].on_error[...]``: runs when the body fails, before ``finally_``.

        Inside, the keys ``on_error.error`` (the exception) and ``on_error.stage`` (the id of what
        failed, or of the workflow) can be bound.
        """
        return Brackets(lambda nodes: replace(self, on_error_body=nodes))

    @property
    def regions(self) -> tuple[tuple[str, tuple[Node, ...]], ...]:
        others = (("on_error", self.on_error_body), ("finally", self.finally_body))
        return (("", self.body), *((label, body) for label, body in others if body is not None))

    def insert_before(self, name: str, *items: Any) -> Workflow:
        """A workflow with `items` before the node called `name`; see `edit.change`."""
        return self._edit(name, lambda node: (*as_nodes(items, self.source), node))

    def insert_after(self, name: str, *items: Any) -> Workflow:
        """A workflow with `items` after the node called `name`; see `edit.change`."""
        return self._edit(name, lambda node: (node, *as_nodes(items, self.source)))

    def replace(self, name: str, *items: Any) -> Workflow:
        """A workflow with `items` in place of the node called `name`; see `edit.change`."""
        return self._edit(name, lambda node: as_nodes(items, self.source))

    def without(self, name: str) -> Workflow:
        """A workflow without the node called `name`; see `edit.change`."""
        return self._edit(name, lambda node: ())

    def _edit(self, name: str, put: Callable[[Node], tuple[Node, ...]]) -> Workflow:
        from .edit import change

        return change(self, name, put)

    def mermaid(self) -> str:
        """A Mermaid flow chart, as Markdown renderers draw it."""
        from .draw import mermaid

        return mermaid(self)

    def dot(self) -> str:
        """A Graphviz digraph."""
        from .draw import dot

        return dot(self)

    @property
    def graph(self) -> Any:
        """The nested `networkx.DiGraph`; a block is a node whose ``graph`` is its inside."""
        from .digraph import nested

        return nested(self)

    def flat(self) -> Any:
        """One `networkx.DiGraph` with path ids as nodes and an attribute ``parent``."""
        from .digraph import flat

        return flat(self)


def workflow(name: str) -> Workflow:
    """Begin a workflow: ``workflow("sft")[load, loop(...)[...], save].finally_[cleanup]``.

    Args:
        name: first part of every path inside.
    """
    return Workflow(name, source=_caller(1), defects=_name_defects("workflow", name))


def loop(
    name: str,
    *,
    over: Any = MISSING,
    while_: Any = MISSING,
    max_iterations: int | None = None,
    **unknown: Any,
) -> Loop:
    """Repeat: once for each item of `over`, or while `while_` holds.

    Inside, the keys ``<name>.item`` and ``<name>.index`` can be bound. `over` is iterated lazily;
    no items, no iterations.

    Args:
        name: part of the paths inside.
        over: callable whose parameters are keys, key, or iterable.
        while_: callable whose parameters are keys, key, or truth value; asked before each
            iteration.
        max_iterations: the loop ends after this many, even where `while_` still holds.
        **unknown: reported by validation.
    """
    defects = list(_name_defects("loop", name))
    if (over is MISSING) == (while_ is MISSING):
        message = "a loop needs either over= or while_="
        defects.append(
            Defect("bad-option", message, "over= repeats once an item, while_= while it holds")
        )
    if max_iterations is not None and not (
        isinstance(max_iterations, int)
        and not isinstance(max_iterations, bool)
        and max_iterations >= 0
    ):
        message = f"max_iterations must be an int of at least 0, got {max_iterations!r}"
        defects.append(Defect("bad-option", message))
        max_iterations = None
    known = ("over", "while_", "max_iterations")
    defects += [
        Defect("unknown-option", f"loop: unknown option {option!r}", did_you_mean(option, known))
        for option in unknown
    ]
    return Loop(
        str(name),
        source=_caller(1),
        defects=tuple(defects),
        over=None if over is MISSING else as_value(over, 2),
        while_=None if while_ is MISSING else as_value(while_, 2),
        max_iterations=max_iterations,
    )


def when(predicate: Any) -> When:
    """Branch: ``when(should_eval)[evaluate].otherwise[skip]``.

    Args:
        predicate: callable whose parameters are keys, key, or truth value.
    """
    value = as_value(predicate, 2)
    return When(value.name or "when", source=_caller(1), predicate=value)


def _caller(depth: int) -> str:
    frame = sys._getframe(depth + 1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _name_defects(what: str, name: object) -> tuple[Defect, ...]:
    if isinstance(name, str) and is_name(name):
        return ()
    return (Defect("bad-option", f"{what}: name must be {NAME_RULE}, got {name!r}"),)


def as_nodes(items: Any, source: str) -> tuple[Node, ...]:
    """What stands in brackets, as nodes; unnamed blocks of one bracket are numbered.

    Args:
        items: one item or a tuple of them; lists and tuples inside are flattened.
        source: ``file:line`` to name for what is no stage.
    """
    nodes: list[Node] = []
    taken: dict[str, int] = {}
    for node in _flatten(items, source):
        if isinstance(node, When):
            taken[node.name] = count = taken.get(node.name, 0) + 1
            node = replace(node, name=f"{node.name}_{count}") if count > 1 else node
        nodes.append(node)
    return tuple(nodes)


def _flatten(items: Any, source: str) -> list[Node]:
    if isinstance(items, (tuple, list)):
        return [node for item in items for node in _flatten(item, source)]
    if isinstance(items, (StageNode, Alien, Loop, When)):
        return [items]
    if isinstance(items, Stage):
        return [class_node(items)]
    if isinstance(items, type) and issubclass(items, Stage):
        try:
            return [class_node(items())]
        except (CrucibleError, TypeError) as error:
            name = snake_case(items.__name__)
            return [Alien(name, items.declared_at, (Defect("bad-option", str(error)),))]
    return [_alien(items, source)]


def _alien(item: Any, source: str) -> Alien:
    name = getattr(item, "__name__", None) or type(item).__name__
    shown = f"the function {name!r}" if callable(item) and hasattr(item, "__code__") else repr(item)
    advice = "a stage is a function with @stage, or a class derived from Stage"
    if isinstance(item, Brackets):
        shown, advice = "an open bracket", "write .otherwise[...] or .finally_[...]"
    elif isinstance(item, Block) or (isinstance(item, type) and issubclass(item, Block)):
        shown, advice = f"the workflow {name!r}", "name its body in its place: other.body"
    return Alien(name, source, (Defect("not-a-stage", f"{shown[:120]} is not a stage", advice),))


def as_workflow(target: object) -> Workflow:
    """A workflow value, or the value of a `Workflow` class.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(target, type) and issubclass(target, Workflow) and target is not Workflow:
        return target("")
    if isinstance(target, Workflow):
        return target
    raise TypeError(f"workflow: must be a workflow or a Workflow class, got {target!r}")
