"""`Recorder`: writes where the strands of a run stand into its journal."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

from crucible_kitchen.context import MetricRecord
from crucible_kitchen.errors import CrucibleError

from .checkpoint import Every, Policy
from .handlers.jsonl import JsonLines
from .journal import Journal, Story
from .small import ALWAYS_SMALL, is_small
from .sources import OpenLoop
from .stock import Stock
from .strand import Strand
from .vault import CannotSave, Coded, Held, Vault

_NOBODY: frozenset[Strand] = frozenset()
_UNREAD = 64
"""Lines that are taken over at once: that is faster than one by one."""


class Recorder:
    """What the strands of one run share.

    Args:
        journal: where commits are written.
        vault: writes down values.
        policy: when it is time for a commit.
        story: what the journal says so far.
    """

    def __init__(self, journal: Journal, vault: Vault, policy: Policy, story: Story) -> None:
        self.journal, self.vault, self.policy, self.story = journal, vault, policy, story
        self.every = policy.stages if isinstance(policy, Every) else 0
        """How many stages at least come between two commits."""
        self.listener: JsonLines | None = None
        """Writes the run's events, where they are kept; it must be as far as the journal."""
        self.lines = 0
        """How many events were written down when the run stopped."""
        self.lock = threading.RLock()
        self.finished_stages = 0
        self.stocked = False
        """Whether an `async_loop` has begun."""
        self.users: dict[Held, set[Strand]] = {}
        """Whose work on what adapters hold is under way, or done and not yet written down."""
        self._unread: list[dict[str, Any]] = []  # lines that the story has yet to take over
        self._next = max(story.strands) + 1

    @property
    def has_begun(self) -> bool:
        """Whether the journal says where the run stands."""
        return bool(self._unread or self.story.main.at)

    def events(self) -> int:
        """How many events have been written down."""
        return 0 if self.listener is None else self.listener.lines

    def commit(self, strand: Strand) -> bool:
        """Write down where a strand stands; False where now is no moment for it.

        Raises:
            CrucibleError: a value cannot be saved, or the journal cannot be written.
        """
        with self.lock:
            if strand.parent is None and not self.stocked and not self.vault.keepers:
                self._append({"commits": [self._commit(strand)]})  # most are as simple as that
                self._committed([strand])
            elif not self._commit_with_others(strand):
                return False
            if self.vault.has_grown:
                self._catch_up()
                self.vault.sweep(self.story.main.values())
        if strand.rt.emit is not None:
            strand.rt.tell("checkpoint", strand.at)
        return True

    def _commit_with_others(self, strand: Strand) -> bool:
        strands = [strand] if strand.parent is None else self._together_with(strand)
        stocks = [stock for one in strands for stock in one.stocks()]
        if any(stock.is_making and stock.maker.used for stock in stocks):
            return False  # what it makes is half in what an adapter holds
        involved = [*strands, *(stock.maker for stock in stocks)]
        handles = self._save({held for one in involved for held in one.used}, involved)
        if handles is None:
            return False
        commits = [self._commit(one) for one in strands]
        new = self._save_new(handles, involved)
        if new is None:
            for one, commit in zip(strands, commits, strict=True):
                if "of" in commit:
                    one.number = -1  # nobody will read of it
            return False
        line: dict[str, Any] = {"commits": commits}
        if handles or new:
            line["handles"] = handles = {**handles, **new}
        self._append(line)
        self.vault.saved(handles)
        self._committed(strands)
        for stock in stocks:
            stock.unwritten.clear()
            stock.maker.committed()
        return True

    def commit_stock(self, strand: Strand, stock: Stock) -> bool:
        """Write down what was made for an `async_loop`; False where now is no moment for it.

        Args:
            strand: of the loop.
            stock: what was made, which the producer is not at work on.
        Raises:
            CrucibleError: an item cannot be saved, or the journal cannot be written.
        """
        with self.lock:
            if strand.number < 0 or strand.frozen or not strand.has_written(stock):
                return False  # the loop's own checkpoint will say it
            handles = self._save(stock.maker.used, [stock.maker])
            if handles is None:
                return False
            commit = {"strand": strand.number, "made": {stock.where: self._made(stock)}}
            new = self._save_new(handles, [stock.maker])
            if new is None:
                return False
            line: dict[str, Any] = {"commits": [commit]}
            if handles or new:
                line["handles"] = handles = {**handles, **new}
            self._append(line)
            self.vault.saved(handles)
            stock.unwritten.clear()
            stock.maker.committed()
            return True

    def _append(self, line: dict[str, Any]) -> None:
        if self.listener is not None:
            self.listener.flush()
        self.journal.append(line, fsync=self.policy.fsync)
        for commit in line["commits"]:
            commit.pop("metrics", None)  # the journal has them, and the story need not
        if self._unread and _is_short(line) and _is_short(self._unread[-1]):
            _add(self._unread[-1]["commits"][0], line["commits"][0])
            return
        self._unread.append(line)
        if len(self._unread) >= _UNREAD:
            self._catch_up()

    def _together_with(self, strand: Strand) -> list[Strand]:
        """A strand with those whose places must be written down with it.

        These are the strands around it that have not been since they entered the block it is in,
        and those beside it that have ended: it may go on from what they left.
        """
        strands, inner = [strand], strand
        while (parent := inner.parent) is not None:
            strands[:0] = parent.ended
            if not parent.pending:
                break
            strands.insert(0, parent)
            inner = parent
        return strands

    def _save_new(
        self, saved: Mapping[str, Any], strands: Sequence[Strand]
    ) -> dict[str, Any] | None:
        return self._save(self.vault.new_handles() - set(map(int, saved)), strands)

    def _save(self, held: Iterable[Held], strands: Sequence[Strand]) -> dict[str, Any] | None:
        """Save what adapters hold; None where the work of another strand may be in it."""
        for one in held:
            key = one if isinstance(one, str) else self.vault.held(one)
            if not self.users.get(key, _NOBODY) <= set(strands):
                return None
        return self.vault.save_handles(held)

    def finish(self, strand: Strand) -> None:
        """Say that the run is done, and which small values and metrics it left.

        Raises:
            CrucibleError: the journal cannot be written.
        """
        with self.lock:
            if self.listener is not None:
                self.listener.flush()
            state = strand.rt.state
            small = {key: value for key, value in state.items() if is_small(value)}
            records = [self._metric(record) for record in strand.unsent()]
            self.journal.append({"finished": small, "metrics": records})

    def _catch_up(self) -> None:
        """Have the story say what the journal says."""
        for line in self._unread:
            self.story.apply(line)
        self._unread.clear()

    def _commit(self, strand: Strand) -> dict[str, Any]:
        commit: dict[str, Any] = {"strand": strand.number, "at": strand.at}
        if strand.number < 0:
            assert strand.parent is not None
            commit["strand"] = strand.number = self._next
            commit |= {"of": strand.parent.number, "path": strand.name}
            self._next += 1
        if strand.inside:
            commit["in"] = True
        commit["events"] = strand.events if strand.inside else self.events()
        if strand.of_the_end or strand.sent < len(strand.rt.metrics):
            commit["metrics"] = [self._metric(record) for record in strand.unsent()]
        state, coded, small = strand.rt.state, self._coded, ALWAYS_SMALL
        written = {
            key: value if type(value := state[key]) in small else coded(f"writes {key!r}", value)
            for key in strand.touched
            if key in state
        }
        if written:
            commit["set"] = written
        for loop in strand.loops:
            if not loop.written or loop.paired or (loop.stock and loop.stock.unwritten):
                commit.setdefault("loops", {})[loop.where] = self._loop(loop)
        if strand.rt.base is not strand.base and (changed := strand.changed_metadata()):
            commit["metadata"] = self._coded("puts into the metadata what", changed)
        return commit

    def _coded(self, said: str, value: Any) -> Coded:
        """A value as JSON; `said` says whose it is, and what it does with the value."""
        try:
            return self.vault.encode(value)
        except CannotSave as error:
            raise CrucibleError(
                f"{said}, which cannot be kept for a resume: {error}; make it of what can be "
                "pickled, or a handle whose adapter saves it (`Port.save_value`)"
            ) from error

    def _loop(self, loop: OpenLoop) -> dict[str, Any]:
        """What the journal must know of a loop, besides what it knows already."""
        about: dict[str, Any] = {}
        if loop.stock is not None:
            return {"made": self._made(loop.stock)}
        if loop.paired:
            about["state"] = self._coded(f"{loop.where} has a source with a state", loop.state)
            about["item"] = self._coded(f"{loop.where} has an item", loop.item)
        if loop.written:
            return about
        if loop.value is not None:
            about["over"] = self._coded(f"{loop.where} goes through items", loop.value)
        elif loop.reads:
            about["reads"] = {
                key: self._coded(f"{loop.where} reads {key!r}", one)
                for key, one in loop.reads.items()
            }
        return about

    def _made(self, stock: Stock) -> dict[str, Any]:
        said = f"the producer of {stock.where} gives an item"
        return {
            str(number): [
                self._coded(said, item.value),
                [self._metric(record) for record in item.records],
            ]
            for number, item in stock.unwritten.items()
        }

    def _metric(self, record: MetricRecord) -> list[Any]:
        name, value, step, time, metadata = record
        number = value if type(value) in (int, float) else float(value)
        at = None if step is None else int(step)
        return [
            name,
            number,
            at,
            time,
            self._coded(f"records {name!r}", dict(metadata)) if metadata else {},
        ]

    def _committed(self, strands: list[Strand]) -> None:
        now = monotonic()
        for strand in strands:
            strand.committed()
        around: Strand | None = strands[-1]
        while around is not None:
            around.committed_stages, around.committed_s = self.finished_stages, now
            around = around.parent


def _is_short(line: Mapping[str, Any]) -> bool:
    """Whether a line says no more than how far the run itself has come, and what it has written."""
    commits = line["commits"]
    if len(line) > 1 or len(commits) > 1 or commits[0]["strand"] != 0:
        return False
    return len(commits[0]) == 3 + ("set" in commits[0])  # strand, at and events


def _add(commit: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Have a short commit say what the one behind it does: most are, so this is done for most."""
    commit["at"], commit["events"] = later["at"], later["events"]
    if "set" in later:
        commit.setdefault("set", {}).update(later["set"])
