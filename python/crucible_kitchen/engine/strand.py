"""`Strand`: where one thread of control of a run stands, and how it gets there again on resume.

On resume the compiled closures run as they always do. Until a strand has reached the place where
its journal stopped, its stages do nothing, its blocks are entered only where that place is inside
them, and nothing is told to those who listen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from crucible_kitchen.context import MetricRecord
from crucible_kitchen.errors import CrucibleError

from .journal import Saved
from .open_loops import OpenLoops
from .vault import Held

if TYPE_CHECKING:
    from .recorder import Recorder
    from .runtime import Runtime
    from .stock import Stock


class Strand:
    """One thread of control of a run that keeps a journal.

    Args:
        recorder: of the run, shared by all its strands.
        rt: whose state and place it follows.
        parent: the strand it was forked from.
    """

    __slots__ = (
        "at",
        "base",
        "committed_s",
        "committed_stages",
        "ended",
        "events",
        "frozen",
        "inside",
        "loops",
        "lost",
        "name",
        "number",
        "of_the_end",
        "parent",
        "pending",
        "recorder",
        "rt",
        "saved",
        "sent",
        "target",
        "touched",
        "used",
        "written",
    )

    def __init__(self, recorder: Recorder, rt: Runtime, parent: Strand | None = None) -> None:
        self.recorder, self.rt, self.parent = recorder, rt, parent
        self.name, self.number = "", 0 if parent is None else -1
        self.frozen = True  # until it begins: what never does is not written down
        self.used: set[Held] = set()  # what adapters hold and it changed since it was written down
        self.ended: list[Strand] = []  # of the block it is in, with work that is not written down
        self.lost: Strand | None = None  # stands for those that will not be written down any more
        self.loops = OpenLoops(self)
        self._reset()

    def _reset(self) -> None:
        self.saved: Saved | None = None
        self.target: str | None = None  # where to go on behind; None where it has got there
        self.at, self.inside, self.events = "", False, 0
        self.written = ("", False)  # where it stood when it was written down
        self.pending = False
        self.touched: dict[str, None] = {}
        self.loops.clear()
        self.sent = 0
        self.of_the_end: list[MetricRecord] | None = None  # metrics, once it has come to its end
        self.committed_stages, self.committed_s = self.recorder.finished_stages, monotonic()
        self.base = self.rt.base

    @property
    def stages(self) -> int:
        """Stages finished since the last commit, by this strand and those beside it."""
        return self.recorder.finished_stages - self.committed_stages

    @property
    def seconds(self) -> float:
        """Since the last commit."""
        return monotonic() - self.committed_s

    def fork(self, rt: Runtime) -> Strand:
        """A strand for a fork of the runtime."""
        return Strand(self.recorder, rt, self)

    def begin(self, name: str) -> None:
        """Start, or go on where the journal says.

        Args:
            name: path that its ids begin with.
        """
        parent = self.parent
        if parent is not None:
            parent.lose(self)
        self._reset()
        self.name, self.number = name, 0 if parent is None else -1
        if parent is None:
            self.saved, self.frozen = self.recorder.story.main, False
        else:
            self.committed_stages, self.committed_s = parent.committed_stages, parent.committed_s
            self.frozen = parent.frozen
            self.saved = parent.saved.children.get(name) if parent.saved is not None else None
        if self.saved is not None and self.saved.at:
            self._restore(self.saved)

    def _restore(self, saved: Saved) -> None:
        rt, decode = self.rt, self.recorder.vault.decode
        self.number, self.target, self.at = saved.number, saved.at, saved.at
        self.written = (saved.at, saved.inside)
        with self.recorder.lock:
            for key, coded in saved.state.items():
                rt.put(key, decode(coded))
            if saved.metadata is not None:
                metadata = {**rt.base.metadata, **decode(saved.metadata)}
                rt.base = rt.base.replace(_metadata=metadata)
            rt.metrics.extend(self.decode_records(saved.records))
        self.touched = {}
        self.sent = len(saved.records)

    def changed_metadata(self) -> dict[str, Any]:
        """What stages have put into the context's metadata."""
        before, now = dict(self.base.metadata), dict(self.rt.base.metadata)
        return {k: v for k, v in now.items() if k not in before or v is not before[k]}

    def stocks(self) -> list[Stock]:
        """What was made for the loops that are open and is not written down."""
        stocks = [loop.stock for loop in self.loops if loop.stock is not None]
        return [stock for stock in stocks if stock.unwritten]

    def has_written(self, stock: Stock) -> bool:
        """Whether the journal knows the loop that something was made for."""
        return any(loop.stock is stock and loop.written for loop in self.loops)

    def unsent(self) -> list[MetricRecord]:
        """Metrics that are not written down."""
        return self.rt.metrics.since(self.sent) if self.of_the_end is None else self.of_the_end

    # What the closures of stages and blocks ask.

    def skips(self, path: str) -> bool:
        """Whether a stage has been done; called while there is a target."""
        if path == self.target:
            self._arrive()
        return True

    def leads_to(self, path: str) -> bool:
        """Whether the target is a block, or inside it."""
        target = self.target
        assert target is not None
        return target == path or target.startswith((f"{path}/", f"{path}["))

    def way(self, path: str) -> str:
        """What the target names below a block, such as a branch."""
        assert self.target is not None
        return self.target[len(path) + 1 :].partition("/")[0]

    def check_arrived(self) -> None:
        """Refuse to end before the place where the journal stopped was met.

        Raises:
            CrucibleError: the workflow has no such place any more.
        """
        if self.target is not None:
            raise CrucibleError(
                f"resume: the journal stopped at {self.target}, which the workflow does not have "
                "any more; nothing has run"
            )

    def _arrive(self) -> None:
        self.target = None
        self.rt.metrics.cut(self.sent)  # what a source recorded again while it was gone through

    def finished(self, path: str, writes: Mapping[str, None]) -> None:
        """Take note that a stage has done its work, and write that down where it is time."""
        self.touched.update(writes)
        recorder = self.recorder
        self.at, self.inside, self.pending = path, False, False
        done = recorder.finished_stages = recorder.finished_stages + 1
        # What `Every` says is asked here: to call it after each stage costs more than all this.
        if self.frozen or done - self.committed_stages < recorder.every:
            return
        if recorder.policy.due(self):
            recorder.commit(self)

    def uses(self, ports: Iterable[str], keys: Iterable[str], *, makes: bool = False) -> None:
        """Take note that what adapters hold is about to change.

        Until that is written down, no other strand may write it down as it is: with this one's work
        in it, which a resume would then do twice.

        Args:
            ports: that are used.
            keys: that are read.
            makes: whether a new handle is made.
        """
        with self.recorder.lock:
            values = [self.rt.values[key] for key in keys if key in self.rt.values]
            for port in ports:
                self._hold(self.recorder.vault.changed_by(port, values, makes))

    def _hold(self, changed: Iterable[Held]) -> None:
        for held in changed:
            self.used.add(held)
            self.recorder.users.setdefault(held, set()).add(self)

    def _release(self) -> set[Held]:
        for held in self.used:
            self.recorder.users[held].discard(self)
        given, self.used = self.used, set()
        return given

    def committed(self) -> None:
        """Take note that where it stands is written down."""
        self.touched, self.pending = {}, False
        if self.of_the_end is None:
            self.sent = len(self.rt.metrics)
        else:
            self.of_the_end = []
        self.written = (self.at, self.inside)
        if self.used:
            self._release()
        for loop in self.loops:
            loop.written = True
        if self.parent is not None and self in self.parent.ended:
            self.parent.ended.remove(self)

    def end(self) -> None:
        """Take note that it has come to its end, where it began inside a block.

        Raises:
            CrucibleError: the journal stopped in a place that the workflow does not have any more.
        """
        assert self.parent is not None
        self.check_arrived()
        if self.used or (self.at, self.inside) != self.written:
            with self.recorder.lock:
                self.of_the_end = self.unsent()  # the runtime gives its metrics away
                self.parent.ended.append(self)

    def lose(self, child: Strand) -> None:
        """Take note that a strand inside begins anew: what is not written down of it never is."""
        if child not in self.ended and not child.used:
            return
        with self.recorder.lock:
            if child in self.ended:
                self.ended.remove(child)
            if self.lost is None:
                self.lost = Strand(self.recorder, self.rt, self)
            self.lost._hold(child._release())

    def leave(self, where: str) -> None:
        """Take note that a block with strands of its own is over; what they did is this one's."""
        with self.recorder.lock:
            for child in (*self.ended, *(() if self.lost is None else (self.lost,))):
                self._hold(child._release())
            self.ended = []
            self.at, self.inside, self.pending = where, False, False

    def is_past(self, path: str) -> bool:
        """Whether a block is over that the target is, or that it is in; called while there is one.

        Where it is the target, this strand is there.
        """
        if self.target != path:
            return not self.leads_to(path)
        if self.saved is not None and self.saved.inside:
            return False
        self._arrive()
        return True

    def enter(self, where: str) -> None:
        """Take note that a block with strands of its own begins.

        Args:
            where: id of the block.
        """
        if self.target is not None:
            self._arrive()
            self.inside = True
            return
        self.at, self.inside, self.pending = where, True, True
        self.events = self.recorder.events()
        self.saved = None

    def saved_loop(self, where: str) -> dict[str, Any]:
        """What the journal says of a block; called while there is a target."""
        assert self.saved is not None
        return self.saved.loops.get(where, {})

    def index_in(self, where: str) -> int:
        """Number of the item that the journal stopped in; called while there is a target."""
        assert self.target is not None
        return int(self.target[len(where) + 1 :].partition("]")[0])

    def decode(self, coded: Any) -> Any:
        """A value that the journal keeps."""
        with self.recorder.lock:
            return self.recorder.vault.decode(coded)

    def decode_records(self, records: Iterable[Sequence[Any]]) -> list[MetricRecord]:
        """Metrics that the journal keeps."""
        return [
            MetricRecord(name, value, step, time, self.decode(metadata))
            for name, value, step, time, metadata in records
        ]
