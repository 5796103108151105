"""Blocks that repeat: `loop`, and `stream_loop`, whose source is read ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .blocks import MISSING, Block, caller, count_defects, name_defects, unknown_options
from .signature import Defect
from .values import Value, as_value


@dataclass(frozen=True)
class Loop(Block):
    """Repeats its body, once for each item, while a predicate holds, or both; see `loop`."""

    kind: ClassVar[str] = "loop"

    over: Value | None = None
    while_: Value | None = None
    max_iterations: int | None = None

    @property
    def variables(self) -> tuple[str, str]:
        """Keys that exist inside the loop only: the item and its index."""
        return f"{self.name}.item", f"{self.name}.index"

    @property
    def values(self) -> tuple[tuple[str, Value], ...]:
        options = (("over", self.over), ("while_", self.while_))
        return tuple((name, value) for name, value in options if value is not None)

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.max_iterations is None else {"max_iterations": self.max_iterations}


@dataclass(frozen=True)
class StreamLoop(Loop):
    """A loop whose items are made on another thread while the body runs; see `stream_loop`."""

    kind: ClassVar[str] = "stream_loop"

    prefetch: int = 1

    @property
    def options(self) -> dict[str, Any]:
        return {"prefetch": self.prefetch}


def loop(
    name: str,
    *,
    over: Any = MISSING,
    while_: Any = MISSING,
    max_iterations: int | None = None,
    **unknown: Any,
) -> Loop:
    """Repeat: once for each item of `over`, or while `while_` holds.

    Given both, it ends with the first of them. Inside, the keys ``<name>.item`` and
    ``<name>.index`` can be bound. `over` is iterated lazily; no items, no iterations.

    Args:
        name: part of the paths inside.
        over: callable whose parameters are keys, key, or iterable.
        while_: callable whose parameters are keys, key, or truth value; asked before each
            iteration.
        max_iterations: the loop ends after this many, whatever is left of it.
        **unknown: reported by validation.
    """
    defects = list(name_defects("loop", name))
    if over is MISSING and while_ is MISSING:
        message = "a loop needs over= or while_="
        defects.append(
            Defect("bad-option", message, "over= repeats once an item, while_= while it holds")
        )
    wrong = count_defects("max_iterations", max_iterations, 0)
    defects += [*wrong, *unknown_options("loop", unknown, ("over", "while_", "max_iterations"))]
    return Loop(
        str(name),
        source=caller(1),
        defects=tuple(defects),
        over=None if over is MISSING else as_value(over, 2),
        while_=None if while_ is MISSING else as_value(while_, 2),
        max_iterations=None if wrong else max_iterations,
    )


def stream_loop(name: str, *, over: Any = MISSING, prefetch: int = 2, **unknown: Any) -> StreamLoop:
    """Repeat once for each item, while another thread already makes the next ones.

    What `over` gives is iterated on that thread, at most `prefetch` items ahead of the body; the
    thread ends with the loop, however the loop ends. An error of the source is raised where its
    item was wanted, with the source's own traceback.

    Args:
        name: part of the paths inside; ``<name>.item`` and ``<name>.index`` can be bound there.
        over: callable whose parameters are keys, key, or iterable.
        prefetch: how many items are kept ready.
        **unknown: reported by validation.
    """
    defects = list(name_defects("stream_loop", name))
    if over is MISSING:
        defects.append(Defect("bad-option", "a stream_loop needs over=", "what it goes through"))
    wrong = count_defects("prefetch", -1 if prefetch is None else prefetch, 1)
    defects += [*wrong, *unknown_options("stream_loop", unknown, ("over", "prefetch"))]
    return StreamLoop(
        str(name),
        source=caller(1),
        defects=tuple(defects),
        over=as_value(() if over is MISSING else over, 2),
        prefetch=1 if wrong else prefetch,
    )
