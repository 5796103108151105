"""`async_loop`: a producer on a thread of its own, and the loop over what it makes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from queue import SimpleQueue
from time import perf_counter
from typing import Any, NamedTuple

from crucible_kitchen.context import MetricRecord
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import AsyncLoop
from crucible_kitchen.graph.loops import NOTHING

from .blocks import CompileBody, iteration, told
from .maker import Maker
from .runtime import Runtime
from .shared import Picture
from .stages import Step
from .stock import Item, Stock
from .values import compile_value


class Made(NamedTuple):
    """What one call of the producer gave.

    Args:
        item: what it returned.
        records: metrics it recorded.
        error: what it raised, instead of an item.
    """

    item: Any
    records: list[MetricRecord]
    error: BaseException | None = None


class Producer(Maker):
    """Makes items on a thread of its own, each from the state that was published last.

    Args:
        make: makes the item of a number, from a state.
        ahead: most items that are begun and not yet taken.
        staleness: most publications between the state of an item and its taking; None for any.
        first: state that the first item is made from.
        taken: items that were taken before, each with a publication behind it.
        ready: the items after those, where they have been made already.
    """

    def __init__(
        self,
        make: Callable[[int, Picture], Made],
        ahead: int,
        staleness: int | None,
        first: Picture,
        taken: int = 0,
        ready: Sequence[Item] = (),
    ) -> None:
        super().__init__("crucible-producer")
        self._make, self._ahead, self._staleness = make, ahead, staleness
        self._newest = first
        self._taken = self._published = taken
        self._number = self._begun = taken + len(ready)  # of the next item to make, to be granted
        self._ready: SimpleQueue[Made] = SimpleQueue()
        for item in ready:
            self._ready.put(Made(item.value, item.records))
        self._grant_more()

    def take(self) -> Made:
        """Wait for the next item."""
        made = self._ready.get()
        self._taken += 1
        self._grant_more()
        return made

    def publish(self, picture: Picture) -> None:
        """Have the items that are not yet begun made from this state."""
        self._newest = picture
        self._published += 1
        self._grant_more()

    def _grant_more(self) -> None:
        most = self._taken + self._ahead
        if self._staleness is not None:
            # Item n is taken after n publications, so it is made from one of the last few of them.
            most = min(most, self._published + self._staleness + 1)
        if most > self._begun:
            self.grant(most - self._begun)
            self._begun = most

    def _work(self) -> None:
        while self._granted():
            made = self._make(self._number, self._newest)
            self._ready.put(made)
            if made.error is not None:
                return
            self._number += 1


def compile_async_loop(node: AsyncLoop, rt: Runtime, path: str, compile_body: CompileBody) -> Step:
    """A closure that runs the body once for each item, while the next ones are made."""
    fork = rt.fork()
    make = _maker(node, fork, path)
    stop = None if node.stop_when == NOTHING else compile_value(node.stop_when, rt, path)
    iterate = iteration(node, rt, compile_body(node.body, rt, path))
    looks_back = node.producer.signature.sees_context

    def items(where: str, stock: Stock | None) -> Generator[Any, None, None]:
        # Where a run goes on inside, this begins when the iteration is over that it stopped in: an
        # item is never made from half of one.
        if stop is not None and stop():
            return
        fork.cancel(rt.cancelled)
        now = rt.picture(looks_back)
        first, ready = (0, []) if stock is None else (stock.first, stock.ready)
        made_by = partial(make, where, stock)
        limits = node.buffer, node.max_staleness
        with Producer(made_by, *limits, now, first, ready) as producer:
            try:
                for number in count(first):
                    made = producer.take()
                    rt.metrics.extend(made.records)
                    if isinstance(made.error, (StopIteration, StopAsyncIteration)):
                        return
                    if made.error is not None:
                        raise made.error
                    if stock is not None:
                        stock.take(number)
                    yield made.item
                    if stop is not None and stop():
                        return
                    producer.publish(rt.picture(looks_back))
            finally:
                fork.cancel(True)  # an async producer need not finish what nobody will take

    def work(where: str) -> None:
        strand, maker = rt.strand, fork.strand
        stock = None if strand is None or maker is None else Stock(strand, maker, where)
        with closing(items(where, stock)) as every:
            iterate(every, None)

    return told("loop", node, rt, work)


def _maker(
    node: AsyncLoop, fork: Runtime, path: str
) -> Callable[[str, Stock | None, int, Picture], Made]:
    """A function that calls the producer for one item, and tells what it did as a stage does."""
    produce = compile_value(node.producer, fork, f"{path}/producer")
    source = node.producer.source or node.source
    reads = [read.key for read in node.producer.reads]
    asked = {one.role for one in node.producer.signature.injected}
    changes = () if fork.strand is None else fork.strand.recorder.vault.changing
    used = [port for port in changes if port in asked or node.producer.signature.sees_context]

    def make(where: str, stock: Stock | None, number: int, picture: Picture) -> Made:
        here = f"{where}[{number}]/"
        own = f"{here}producer"
        fork.look_at(picture, here)
        fork.tell("stage.start", own)
        began = perf_counter()
        item: Any = None
        failed: BaseException | None = None
        try:
            fork.check_cancelled()
            if stock is not None:
                stock.begin(used, reads)
            item = produce()
        except (StopIteration, StopAsyncIteration) as end:
            failed = end
        except Exception as error:  # noqa: BLE001 - raised by the thread that wants the item
            failed = fork.failure(own, source, error)
            failed.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - as above
            failed = error
        spent = perf_counter() - began
        records = fork.metrics.take()
        if failed is None or isinstance(failed, (StopIteration, StopAsyncIteration)):
            fork.tell("stage.stop", own, duration_s=spent)
        else:
            said = str(failed) or type(failed).__name__
            fork.tell("stage.error", own, duration_s=spent, error=said)
        if failed is None and stock is not None:
            try:
                stock.add(number, Item(item, records))
            except CrucibleError as error:
                failed = fork.failure(own, source, error)
                failed.__cause__ = error
        return Made(item, records, failed)

    return make
