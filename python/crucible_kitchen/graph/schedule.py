"""What the order of a plan allows at best: how long it takes, what that depends on, how wide it is.

Without the times of an earlier run every stage counts one, and of branches only the longest counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .order import longest, widest
from .plan import PlanNode

LABELS = ("otherwise", "on_error", "finally")


def span(node: PlanNode, timed: bool) -> float:
    """Seconds of a node on as many threads as it likes; without times, stages in a row."""
    if node.kind == "stage":
        return (node.seconds or 0.0) if timed else 1.0
    return _critical(node, timed)[0]


def marked(node: PlanNode, timed: bool) -> PlanNode:
    """The node with what its time depends on marked as critical, at every depth."""
    chosen = _critical(node, timed)[1] if node.children else ()
    children = tuple(
        marked(child, timed) if place in chosen else child
        for place, child in enumerate(node.children)
    )
    return replace(node, children=children, critical=True)


def _critical(node: PlanNode, timed: bool) -> tuple[float, tuple[int, ...]]:
    """The time of a block and the places of the children that it depends on."""
    spans = [span(child, timed) for child in node.children]
    first = _main(node)
    rest = tuple(range(first, len(spans)))
    if node.kind == "switch":
        return _branches(spans, [(place,) for place in range(len(spans))], timed)
    total, chain = longest(spans[:first], node.order)
    if node.kind == "when":
        return _branches([total, *spans[first:]], [chain, *((place,) for place in rest)], timed)
    if node.kind == "parallel" and node.copies is not None:
        total = max(total, sum(spans[:first]) / node.copies)
    if node.kind == "fan_out" and timed:
        total /= max(1, node.copies or 1)
    also = tuple(place for place in rest if node.children[place].kind == "finally")
    return total + sum(spans[place] for place in also), (*chain, *also)


def _branches(
    spans: Sequence[float], places: Sequence[tuple[int, ...]], timed: bool
) -> tuple[float, tuple[int, ...]]:
    """Of branches with times each counts, as often as it runs; of others the longest."""
    if timed:
        taken = [place for length, inside in zip(spans, places, strict=True) for place in inside]
        return sum(spans), tuple(taken)
    most = max(spans)
    return most, places[list(spans).index(most)]


def width(node: PlanNode) -> int | None:
    """How many stages of a node can run at once; None where that depends on unknown items."""
    if node.kind == "stage":
        return 1
    widths = [width(child) for child in node.children]
    known = [one for one in widths if one is not None]
    if len(known) < len(widths):
        return node.copies if node.kind == "parallel" else None
    first = _main(node)
    inside = widest(known[:first], node.order) if node.kind != "switch" else max(known[:first])
    inside = max(inside, *known[first:], 1)
    if node.kind == "fan_out":
        return None if node.copies is None else max(1, node.copies) * inside
    return min(inside, node.copies) if node.copies is not None else inside


def _main(node: PlanNode) -> int:
    """How many of the children are the block's own body."""
    return sum(child.kind not in LABELS for child in node.children)
