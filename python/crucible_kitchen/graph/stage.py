"""Stages: `@stage` for functions, `StageNode` for a place in a workflow."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import FrameType
from typing import Any, ClassVar, overload

from crucible_kitchen.errors import did_you_mean

from .annotations import runtime_classes
from .retry import Retry
from .signature import Defect, Read, Signature, Write, read_signature
from .stage_options import check_options
from .values import code_location


class ClassStage:
    """What every `Stage` is; unlike that class, it can be asked for without loading pydantic."""

    declared_at: ClassVar[str] = ""
    """``file:line`` of the class, filled in when it is defined."""


@dataclass(frozen=True)
class Literal:
    """A value bound to a parameter in place of a key."""

    value: Any

    def __hash__(self) -> int:
        return hash(Literal)


@dataclass(frozen=True)
class StageNode:
    """A stage's place in a workflow: an immutable value that can still be called like the function.

    Args:
        name: last part of its path.
        call: the function, or the `Stage` object.
        signature: what it declares.
        bound: (parameter, key or `Literal`), by `bind`.
        renamed: (declared key, key written instead), by `bind`.
        retry: how often it is tried.
        timeout: seconds one attempt may take.
        after: names of neighbours that come first, whatever keys they share.
        cache: whether what it gave is given again where it is given the same.
        executor: where it runs, one of `stage_options.EXECUTORS`; None where that pays best.
        source: ``file:line`` of the declaration.
        defects: what is wrong with the declaration.
    """

    kind: ClassVar[str] = "stage"

    name: str
    call: Any
    signature: Signature = field(compare=False)
    bound: tuple[tuple[str, Any], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    retry: Retry | None = None
    timeout: float | None = None
    after: tuple[str, ...] = ()
    cache: bool = False
    executor: str | None = None
    source: str = field(default="", compare=False)
    defects: tuple[Defect, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", getattr(self.call, "__doc__", None))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, as in a test of the stage alone."""
        if self.of_class:
            return self.call.execute(*args, **kwargs)
        return self.call(*args, **kwargs)

    @property
    def of_class(self) -> bool:
        """Whether it is a `Stage` object, not a function."""
        return isinstance(self.call, ClassStage)

    @property
    def opaque(self) -> bool:
        """Whether it may write keys that it does not declare."""
        return self.of_class and type(self.call).writes is None

    @cached_property
    def bindings(self) -> Mapping[str, Any]:
        """Key or `Literal` of each parameter that `bind` has changed."""
        return dict(self.bound)

    @cached_property
    def ports(self) -> tuple[str, ...]:
        """Names of the ports it uses."""
        if self.of_class:
            return tuple(type(self.call).ports)
        return tuple(injected.role for injected in self.signature.injected if injected.is_port)

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        """Keys read, after `bind`."""
        if not self.bound:
            return self.signature.reads
        bound = dict(self.bound)
        return tuple(
            replace(read, key=bound.get(read.param, read.key))
            for read in self.signature.reads
            if not isinstance(bound.get(read.param), Literal)
        )

    @cached_property
    def writes(self) -> tuple[Write, ...]:
        """Keys written, after `bind`."""
        if not self.renamed:
            return self.signature.writes
        renamed = dict(self.renamed)
        return tuple(
            replace(write, key=renamed.get(write.key, write.key)) for write in self.signature.writes
        )

    @cached_property
    def written_classes(self) -> tuple[tuple[type, ...], ...]:
        """For each key written the classes that its value is of one of."""
        return tuple(runtime_classes(write.type) or (object,) for write in self.writes)

    def bind(
        self, *, writes: Mapping[str, str] | str | None = None, **parameters: Any
    ) -> StageNode:
        """Read other keys, or write to other keys, than the signature names.

        Args:
            writes: declared key -> key written instead; a string where one key is declared.
            **parameters: parameter -> key, as a string; anything else, or a `Literal`, is the value
                itself.
        """
        known = {read.param for read in self.signature.reads}
        declared = [write.key for write in self.signature.writes]
        defects = [
            Defect(
                "unknown-option",
                f"bind: no parameter {name!r}",
                did_you_mean(name, known) or f"{self.name} reads no key",
            )
            for name in parameters
            if name not in known
        ]
        if isinstance(writes, str) and len(declared) != 1:
            message = (
                f"bind: writes={writes!r} renames one key, {self.name} declares {len(declared)}"
            )
            defects.append(Defect("unknown-option", message, "pass writes={declared: written}"))
            writes = None
        names = {declared[0]: writes} if isinstance(writes, str) else dict(writes or {})
        defects += [
            Defect(
                "unknown-option",
                f"bind: {self.name} writes no key {key!r}",
                did_you_mean(key, declared) or "name what it writes: @stage(writes=...)",
            )
            for key in names
            if key not in declared
        ]
        new = {
            name: to if isinstance(to, (str, Literal)) else Literal(to)
            for name, to in parameters.items()
            if name in known
        }
        return replace(
            self,
            bound=tuple({**dict(self.bound), **new}.items()),
            renamed=tuple({**dict(self.renamed), **names}.items()),
            defects=(*self.defects, *_placed(defects)),
        )

    def with_(self, **options: Any) -> StageNode:
        """The same stage with other options.

        Args:
            name: last part of its path.
            retry: a `Retry`, or how often it is tried, the first time included.
            timeout: seconds one attempt may take. An ``async`` stage is cancelled then, a process
                is killed, a thread is left to itself; for any other stage it is refused.
            executor: ``"inline"`` in the thread of the run, ``"thread"`` on one of its own,
                ``"process"`` in another process, to which values are handed by pickle.
            after: name, or names, of stages and blocks beside it that come first: an order that no
                key tells.
            cache: keep what it gives, also for later runs, and give it again where inputs, what is
                bound in place of them, and the code of the stage with all helpers and constants
                that it uses are the same.
        """
        changes, defects = check_options(options)
        return replace(self, **changes, defects=(*self.defects, *_placed(defects)))


def _placed(defects: Sequence[Defect]) -> list[Defect]:
    """The defects with the place of the call that made them, which is outside of this package."""
    if not defects:
        return []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(__package__):
        frame = frame.f_back
    source = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return [defect._replace(source=source) for defect in defects]


@overload
def stage(function: Callable[..., Any], /) -> StageNode: ...
@overload
def stage(
    *, writes: str | Sequence[str] | None = None, **options: Any
) -> Callable[[Callable[..., Any]], StageNode]: ...
def stage(
    function: Callable[..., Any] | None = None,
    /,
    *,
    writes: str | Sequence[str] | None = None,
    **options: Any,
) -> StageNode | Callable[[Callable[..., Any]], StageNode]:
    """Declare a function as a stage; its signature says what it reads, uses and writes.

    Args:
        function: when used without parentheses.
        writes: key, or keys, of the returned value; left out for a NamedTuple or for None.
        **options: those of `StageNode.with_`.
    """

    def declare(function: Callable[..., Any], depth: int = 2) -> StageNode:
        signature = read_signature(function, writes, depth=depth)
        node = StageNode(
            getattr(function, "__name__", type(function).__name__).strip("<>"),
            function,
            signature,
            source=code_location(function),
            defects=signature.defects,
        )
        if not options:
            return node
        changes, defects = check_options(options)
        return replace(node, **changes, defects=(*node.defects, *defects))

    return declare if function is None else declare(function, 3)


def snake_case(name: str) -> str:
    """``TrainEpoch`` as ``train_epoch``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def class_node(given: ClassStage) -> StageNode:
    """The place in a workflow of a stage written as a class."""
    kind: Any = type(given)
    signature = Signature(
        reads=tuple(Read(key, key) for key in kind.reads or ()),
        writes=tuple(Write(key) for key in kind.writes or ()),
    )
    return StageNode(snake_case(kind.__name__), given, signature, source=kind.declared_at)
