"""What an `async_loop` has made and not yet used, as far as a journal is concerned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from crucible_kitchen.context import MetricRecord

from .sources import OpenLoop

if TYPE_CHECKING:
    from .strand import Strand


class Item(NamedTuple):
    """An item with the metrics that were recorded while it was made."""

    value: Any
    records: list[MetricRecord]


class Stock:
    """Items from when they are made until the journal knows them; shared with the producer.

    An item is written down as soon as it is made, or with the next checkpoint of the loop, so on
    resume it is there; one that was not is made again, under the same id.

    Args:
        owner: the strand of the loop.
        maker: what the producer changes of what adapters hold is its work.
        where: id of the loop.
    """

    def __init__(self, owner: Strand, maker: Strand, where: str) -> None:
        self._owner, self.maker, self.where = owner, maker, where
        self.unwritten: dict[int, Item] = {}
        self.is_making = False
        self.first = 0
        """Number of the first item that is not in use yet."""
        self.ready: list[Item] = []
        """Items from there on that a journal has kept."""
        if owner.target is not None:
            self._restore()
        loop = OpenLoop(where, "same", None, {})
        loop.stock, owner.recorder.stocked = self, True
        owner.loops.append(loop)

    def _restore(self) -> None:
        owner = self._owner
        kept = owner.saved_loop(self.where).get("made", {})
        self.first = owner.index_in(self.where) + 1
        number = self.first
        while (made := kept.get(str(number))) is not None:
            value, records = made
            self.ready.append(Item(owner.decode(value), owner.decode_records(records)))
            number += 1

    def begin(self, ports: Iterable[str], keys: Iterable[str]) -> None:
        """Take note that the producer is at work on an item."""
        self.is_making = True
        if ports:
            self.maker.uses(ports, keys)

    def add(self, number: int, item: Item) -> None:
        """Take an item in, and write it down where it is time for that.

        Raises:
            CrucibleError: it cannot be saved, or the journal cannot be written.
        """
        recorder = self._owner.recorder
        with recorder.lock:
            self.unwritten[number], self.is_making = item, False
            recorder.finished_stages += 1
            if recorder.policy.due(self._owner):
                recorder.commit_stock(self._owner, self)

    def take(self, number: int) -> None:
        """Take note that the loop uses an item; those before it are needed no more."""
        with self._owner.recorder.lock:
            for old in [one for one in self.unwritten if one < number]:
                del self.unwritten[old]
