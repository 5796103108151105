"""What the runtimes of one run share, and what they hand to each other."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from crucible_kitchen.context import Context, MetricLog, MetricRecord

from .events import Handler

if TYPE_CHECKING:
    from .process import Workers


class Locks:
    """Locks that a run and its forks share, and what they guard.

    Args:
        family: held while forks come, while they are told to end, and while workers are made.
        store: held while the metrics store records.
        emit: how forks tell of events, which run beside each other; None where all do alike.
        workers: processes of the run, None before the first one.
    """

    __slots__ = ("emit", "family", "store", "workers")

    def __init__(self) -> None:
        self.family, self.store = threading.Lock(), threading.Lock()
        self.emit: Handler | None = None
        self.workers: Workers | None = None


class Left(NamedTuple):
    """What a fork leaves behind.

    Args:
        state: what was written, and is still there.
        records: metrics, in order.
        metadata: of the context, where it changed.
    """

    state: dict[str, Any]
    records: list[MetricRecord]
    metadata: dict[str, Any]


class Picture(NamedTuple):
    """The state of one moment, which stays as it is while the run goes on.

    Args:
        state: the whole of it.
        values: what closures look keys up in.
        base: context without state.
        log: metrics until then, None where nobody looks at them.
    """

    state: dict[str, Any]
    values: dict[str, Any]
    base: Context
    log: MetricLog | None
