"""`Workflow`: the outermost block."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, cast

from .blocks import Block, Brackets, Node, as_nodes, caller, name_defects
from .signature import Defect


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
        cls._source = caller(1)

    def __getstate__(self) -> dict[str, Any]:
        # What is known of it is found out anew where it is read back.
        return {key: value for key, value in vars(self).items() if key != "_facts"}

    _source: ClassVar[str] = ""
    _owner: ClassVar[Workflow]
    _described: ClassVar[tuple[list[object], Workflow]]

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

    def steps(
        self, config: Any = None, adapters: Any = None, **options: Any
    ) -> Generator[Any, None, Any]:
        """Run it step by step, ``for event in wf.steps(...)``; see `engine.steps`."""
        return cast("Generator[Any, None, Any]", _engine().steps(self, config, adapters, **options))

    def spin(self, path: str, config: Any = None, adapters: Any = None, **options: Any) -> Any:
        """Run one stage alone on recorded inputs; see `engine.spin`."""
        return _engine().spin(self, path, config, adapters, **options)

    def mermaid(self) -> str:
        """A Mermaid flow chart, as Markdown renderers draw it."""
        from .draw import mermaid

        return mermaid(self)

    def dot(self) -> str:
        """A Graphviz digraph."""
        from .draw import dot

        return dot(self)

    def to_json(self) -> str:
        """The workflow as JSON: functions and classes by import path, ``module:qualname``.

        What is defined in the program itself is written as ``__main__:name``, and only that program
        can read it.

        Raises:
            WorkflowError: with everything that has no text: lambdas, functions defined inside
                others, values that are no numbers, texts or lists of them.
        """
        from .text import to_json

        return to_json(self)

    def to_yaml(self) -> str:
        """The workflow as YAML; see `to_json`."""
        from .text import to_yaml

        return to_yaml(self)

    @staticmethod
    def from_json(text: str, *, source: str = "") -> Workflow:
        """The workflow of a JSON text, equal to the one it was written from.

        What it names is imported, and so run: read texts that you trust.

        Args:
            text: the document.
            source: where it is from, for messages.
        Raises:
            WorkflowError: with everything that is wrong with it.
        """
        from .text import from_json

        return from_json(text, source)

    @staticmethod
    def from_yaml(text: str, *, source: str = "") -> Workflow:
        """The workflow of a YAML text; see `from_json`."""
        from .text import from_yaml

        return from_yaml(text, source)

    @staticmethod
    def from_networkx(graph: Any, *, name: str | None = None) -> Workflow:
        """A workflow of a `networkx.DiGraph` whose nodes carry ``stage=``.

        Nodes may also carry the options of `StageNode.with_`; a node's name is the stage's. An edge
        says that its head comes later, and is kept as ``after=``. What no edge orders stays in the
        order in which nodes were added.

        Args:
            graph: to read; it is not kept.
            name: of the workflow; the graph's own where left out.
        Raises:
            TypeError: it is no DiGraph.
            WorkflowError: with everything that is wrong with it: a circle, printed, nodes without a
                stage, unknown attributes, names that cannot be part of a path.
        """
        from .from_digraph import from_digraph

        return from_digraph(graph, name, 2)

    def html(self, run: Any = None) -> str:
        """A page that stands alone: blocks as they are nested, and what a run of them took.

        Args:
            run: the folder of a run, finished or not, the result of one, or events: those that a
                handler got, or dicts of them. None draws the workflow alone.
        Raises:
            CrucibleError: the run kept no events, or is one of another workflow.
        """
        from .page import page

        return page(self, run)

    @property
    def graph(self) -> Any:
        """The nested `networkx.DiGraph`; a block is a node whose ``graph`` is its inside."""
        from .digraph import nested

        return nested(self)

    def flat(self) -> Any:
        """One `networkx.DiGraph` with path ids as nodes and an attribute ``parent``."""
        from .digraph import flat

        return flat(self)


def _engine() -> Any:
    # By its name: a graph is told what to run it with, and depends on none.
    return import_module("crucible_kitchen.engine")


def workflow(name: str) -> Workflow:
    """Begin a workflow: ``workflow("sft")[load, loop(...)[...], save].finally_[cleanup]``.

    Args:
        name: first part of every path inside.
    """
    return Workflow(name, source=caller(1), defects=name_defects("workflow", name))


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
