"""`stream_loop`: a source read on another thread, and the loop over what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import isgenerator
from queue import SimpleQueue
from typing import Any

from crucible_kitchen.graph import StreamLoop

from .blocks import CompileBody, compile_source, count_of, iteration, told
from .maker import Maker
from .runtime import Runtime
from .stages import Step

_END = object()


class ReadAhead(Maker):
    """Iterates a source on a thread of its own, a bounded number of items ahead.

    The thread ends with the block as soon as the source gives back control.

    Args:
        source: what is iterated; a generator is closed where it is not read to its end.
        prefetch: most items that are made and not yet taken.
    """

    def __init__(self, source: Iterable[Any], prefetch: int) -> None:
        super().__init__("crucible-read-ahead")
        self._source = source
        self._ready: SimpleQueue[Any] = SimpleQueue()
        self._error: BaseException | None = None
        self.grant(prefetch)

    def __iter__(self) -> Iterator[Any]:
        while (item := self._ready.get()) is not _END:
            self.grant()
            yield item
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            items = iter(self._source)
            try:
                while self._granted():
                    try:
                        item = next(items)
                    except StopIteration:
                        break
                    self._ready.put(item)
            finally:
                if isgenerator(items):
                    items.close()
        except BaseException as error:  # noqa: BLE001 - raised again by the one who iterates
            self._error = error
        self._ready.put(_END)


def compile_stream_loop(
    node: StreamLoop, rt: Runtime, path: str, compile_body: CompileBody
) -> Step:
    """A closure that runs the body once for each item, while the next ones are made."""
    assert node.over is not None
    reader = rt.fork()  # what the source records must not land between the body's stages
    items = compile_source(node.name, node.over, rt, reader, path)
    iterate = iteration(node, rt, compile_body(node.body, rt, path))

    def work(where: str) -> None:
        reader.enter(f"{where}/")
        try:
            source = items()
            total = count_of(source)
            with ReadAhead(source, node.prefetch) as ahead:
                iterate(ahead, total)
        finally:
            rt.adopt(reader.leave())

    return told("loop", node, rt, work)
