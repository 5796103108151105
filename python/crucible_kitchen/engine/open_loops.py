"""What the loops around a place of a run go through, and how they go on there on resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from crucible_kitchen.errors import CrucibleError

from .sources import OpenLoop, Watched

if TYPE_CHECKING:
    from .runtime import Runtime
    from .strand import Strand


class OpenLoops(list[OpenLoop]):
    """The loops that a strand is in, the outermost first.

    Args:
        strand: knows where the journal stopped.
    """

    __slots__ = ("_strand",)

    def __init__(self, strand: Strand) -> None:
        super().__init__()
        self._strand = strand

    def sources(
        self,
        name: str,
        kind: str,
        reads: Iterable[str],
        source: Callable[[], Any],
        rt: Runtime,
        *,
        watch: bool = True,
    ) -> Callable[[], Any]:
        """`source`, which gives the items of a block, but on resume the items it gave before.

        Args:
            name: of the block.
            kind: ``same`` where the workflow itself holds the items, else ``call``.
            reads: keys that it reads.
            source: gives the items.
            rt: whose values it reads.
            watch: whether to ask it where it stands, where it can say so.
        """
        keys = tuple(reads)

        def give() -> Any:
            where = self._strand.rt.prefix + name
            if self._strand.target is not None:
                return self._again(where, source, rt, watch)
            values = rt.values
            read = {key: values[key] for key in keys if key in values}
            every = source()
            unordered = isinstance(every, (set, frozenset))
            if unordered:  # its order is another one in another process
                every = list(every)
            loop = OpenLoop(where, "call" if unordered else kind, every, read)
            self.append(loop)
            return self._watched(loop, every) if watch else every

        return give

    def _again(self, where: str, source: Callable[[], Any], rt: Runtime, watch: bool) -> Any:
        saved = self._strand.saved_loop(where)
        loop = OpenLoop(where, "same", None, {}, written=True)
        self.append(loop)
        if "over" in saved:
            return self._strand.decode(saved["over"])
        now = dict(rt.values)
        decode = self._strand.decode
        rt.values.update({key: decode(one) for key, one in saved.get("reads", {}).items()})
        try:
            every = source()
            return self._watched(loop, every) if watch else every
        finally:
            rt.values.clear()
            rt.values.update(now)

    def holds(self, predicate: Callable[[], Any]) -> Callable[[], Any]:
        """`predicate` of a ``while_``, which held in the iterations that were done."""
        return lambda: self._strand.target is not None or predicate()

    def _watched(self, loop: OpenLoop, every: Any) -> Any:
        """Items, put back to where they stood, and watched where they can say where they stand."""
        if not (hasattr(every, "state_dict") and hasattr(every, "load_state_dict")):
            return every
        loop.paired = True
        strand = self._strand
        if strand.target is not None and "state" in strand.saved_loop(loop.where):
            every.load_state_dict(strand.decode(strand.saved_loop(loop.where)["state"]))
            loop.ahead = strand.index_in(loop.where) + 1
        return Watched(every)

    def numbered(self, every: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Items with their numbers, from the one on that the journal stopped in."""
        loop = self[-1]
        first, items, strand = 0, iter(every), self._strand
        if strand.target is not None:
            first = strand.index_in(loop.where)
            yield first, self._stopped_at(loop, first, items)
            if strand.target is not None:
                raise CrucibleError(
                    f"resume: the journal stopped at {strand.target}, which {loop.where}[{first}] "
                    "does not have any more"
                )
            first += 1
        for index, item in enumerate(items, first):
            yield index, self._take(loop, item)

    def _stopped_at(self, loop: OpenLoop, index: int, items: Iterator[Any]) -> Any:
        saved, decode = self._strand.saved_loop(loop.where), self._strand.decode
        if loop.stock is not None:
            return decode(saved["made"][str(index)][0])
        if "state" in saved:
            loop.item, loop.state = decode(saved["item"]), decode(saved["state"])
            return loop.item
        for item in islice(items, index, None):
            return self._take(loop, item)
        raise CrucibleError(f"resume: {loop.where} gave an item {index}, now it has fewer")

    def _take(self, loop: OpenLoop, item: Any) -> Any:
        if loop.paired:
            loop.item, loop.state = item
            return loop.item
        return item
