"""``after=``: an order that no key tells, such as that of two stages that write the same file."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from crucible_kitchen.errors import Problem, did_you_mean

from .blocks import Node
from .checked import short
from .facts import Facts
from .stage import StageNode


def after_rule(facts: Facts) -> Iterator[Problem]:
    """Names in ``after=`` that are no neighbours, stand later in the text, or go in a circle."""
    for path, node in facts.blocks:
        for label, body in node.regions:
            if any(isinstance(one, StageNode) and one.after for one in body):
                yield from _of_body(body, f"{path}/{label}" if label else path)


def _of_body(body: tuple[Node, ...], path: str) -> Iterator[Problem]:
    place = {node.name: number for number, node in enumerate(body)}
    wanted: dict[str, tuple[str, ...]] = {}
    for number, node in enumerate(body):
        if not isinstance(node, StageNode):
            continue
        where = f"{path}/{node.name}"
        wanted[node.name] = tuple(name for name in node.after if name in place)
        for name in node.after:
            if name not in place:
                message = f"after: nothing beside it is called {name!r}"
                near = did_you_mean(name, set(place) - {node.name}) or "leave it out"
                yield Problem("unknown-after", where, message, node.source, near)
            elif place[name] > number:
                later = body[place[name]]
                message = f"after {name!r} ({short(later.source)}), which stands later in the text"
                advice = "the order of the text is the order of the run: move it up"
                yield Problem("after-later", where, message, node.source, advice)
    try:
        TopologicalSorter(wanted).prepare()
    except CycleError as error:
        names = list(error.args[1])
        source = body[place[names[0]]].source
        message = f"after= goes in a circle: {' -> '.join(names)}"
        yield Problem("cycle", path, message, source, "leave out one of them")
