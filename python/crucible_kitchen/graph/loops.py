"""Blocks that repeat: `loop`, `stream_loop` with a source that is read ahead, `async_loop`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .blocks import MISSING, Block, caller, count_defects, name_defects, unknown_options
from .signature import Defect
from .stage import ClassStage, StageNode
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


NOTHING = Value("literal", None)


@dataclass(frozen=True)
class AsyncLoop(Loop):
    """A loop whose items are made from the newest state while the body runs; see `async_loop`."""

    kind: ClassVar[str] = "async_loop"

    producer: Value = NOTHING
    stop_when: Value = NOTHING
    buffer: int = 1
    max_staleness: int | None = None

    @property
    def values(self) -> tuple[tuple[str, Value], ...]:
        asked = (("producer", self.producer), ("stop_when", self.stop_when))
        # A producer is no key: where it still is one, that has a rule of its own.
        return tuple(
            (option, value)
            for option, value in asked
            if value != NOTHING and (option, value.kind) != ("producer", "key")
        )

    @property
    def options(self) -> dict[str, Any]:
        limit = {} if self.max_staleness is None else {"max_staleness": self.max_staleness}
        return {"buffer": self.buffer, **limit}


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


def async_loop(
    name: str,
    *,
    producer: Any = MISSING,
    stop_when: Any = MISSING,
    buffer: int = 4,
    max_staleness: int | None = None,
    **unknown: Any,
) -> AsyncLoop:
    """Make items and use them at the same time: ``async_loop("rl", producer=sample, ...)[train]``.

    `producer` is called once for each item, on a thread of its own (a coroutine runs beside it),
    with the state as the last finished iteration of the body left it. So it sees new weights as
    soon as there are some, and never half of an iteration. Which iteration that is depends on how
    fast both are; `max_staleness` says how far they may be apart. The body takes the items in the
    order they were made.

    The loop ends when `stop_when` holds, which is asked before each iteration, or when the producer
    raises `StopIteration` (`StopAsyncIteration` where it is ``async``). What has been made and not
    been used by then is dropped; a producer that is at work is cancelled where it is ``async`` and
    waited for where it is not. An error of it is raised where its item was wanted.

    Args:
        name: part of the paths inside; ``<name>.item`` and ``<name>.index`` can be bound there.
        producer: function whose parameters are keys and ports; it returns one item.
        stop_when: callable whose parameters are keys, or key; None where only the producer knows.
        buffer: most items that are made, or being made, and not yet taken.
        max_staleness: most iterations that may end between the state an item was made from and its
            own iteration; 0 makes each item from the newest state of all, and nothing overlaps.
        **unknown: reported by validation.
    """
    value, wrong_producer = _producer(producer)
    wrong = count_defects("buffer", -1 if buffer is None else buffer, 1)
    wrong_limit = count_defects("max_staleness", max_staleness, 0)
    known = ("producer", "stop_when", "buffer", "max_staleness")
    defects = [*name_defects("async_loop", name), *wrong_producer, *wrong, *wrong_limit]
    if stop_when is MISSING:
        advice = "stop_when=None where the producer ends it by raising StopIteration"
        defects.append(Defect("bad-option", "an async_loop needs stop_when=", advice))
    return AsyncLoop(
        str(name),
        source=caller(1),
        defects=(*defects, *unknown_options("async_loop", unknown, known)),
        producer=value,
        stop_when=NOTHING if stop_when is MISSING else as_value(stop_when, 2),
        buffer=1 if wrong else buffer,
        max_staleness=None if wrong_limit else max_staleness,
    )


def _producer(given: Any) -> tuple[Value, tuple[Defect, ...]]:
    """What makes the items, and what is wrong with it."""
    if given is MISSING:
        defect = Defect("bad-option", "an async_loop needs producer=", "what makes one item a call")
        return NOTHING, (defect,)
    if isinstance(given, StageNode) and not given.of_class:
        if given != StageNode(given.name, given.call, given.signature):
            advice = "pass the function itself; its parameters are the keys"
            defect = Defect("bad-option", "producer: options of a stage have no effect", advice)
            return NOTHING, (defect,)
        given = given.call
    if isinstance(given, (str, Value)):  # the name of a method, in a `Workflow` class
        return as_value(given, 3), ()
    if not callable(given) or isinstance(given, (type, ClassStage, StageNode)):
        message = f"producer must be a function that makes one item, got {given!r}"
        defect = Defect("bad-option", message[:160], "stream_loop goes through an iterable")
        return NOTHING, (defect,)
    return as_value(given, 3), ()
