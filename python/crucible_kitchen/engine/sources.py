"""What a block goes through, as far as a journal is concerned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stock import Stock

_CONTAINERS = (range, list, tuple, dict, str, bytes)


class OpenLoop:
    """A block that goes through items, while it runs.

    Args:
        where: id of the block.
        kind: ``same`` where the workflow itself holds the items, else ``call``.
        over: the items.
        reads: what was read to get them.
        written: whether the journal knows them.

    Attributes:
        value: the items, where they are written down themselves; where not, they are asked for
            again, from what was read.
        paired: whether each item comes with where its source stood then.
        item, state: the last such pair.
        ahead: how many items the source does not give again on resume.
        stock: of an `async_loop`, what has been made for it.
    """

    __slots__ = ("ahead", "item", "paired", "reads", "state", "stock", "value", "where", "written")

    def __init__(
        self, where: str, kind: str, over: Any, reads: Mapping[str, Any], *, written: bool = False
    ) -> None:
        plain = type(over) in _CONTAINERS and kind != "same"
        self.where, self.reads, self.written = where, {} if plain else reads, written
        self.value = over if plain else None
        self.paired, self.ahead = False, 0
        self.item: Any = None
        self.state: Any = None
        self.stock: Stock | None = None


class Watched:
    """Items of a source that can say where it stands, each with where it stood then.

    Args:
        source: with ``state_dict``.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self.total: int | None = len(source) if hasattr(source, "__len__") else None

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for item in self._source:
            yield item, self._source.state_dict()
