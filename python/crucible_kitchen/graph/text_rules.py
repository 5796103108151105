"""Rules of the text alone: declarations, names, types along edges, loops that never end."""

from __future__ import annotations

from collections.abc import Iterator

from crucible_kitchen.errors import Problem

from .annotations import accepts, show
from .blocks import Block, Node
from .checked import short
from .facts import Facts, TextRule, misplaced
from .flow import Writer
from .keys import any_opaque, keys_written
from .loops import Loop
from .together import FanOut


def declarations(facts: Facts) -> Iterator[Problem]:
    """Not a stage, unknown or bad options, signatures that cannot be read."""
    for path, node in facts.nodes:
        for code, message, advice, place in node.defects:
            yield Problem(code, path, message, place or node.source, advice)
        if isinstance(node, Block):
            for option, value in node.values:
                for code, message, advice, place in value.signature.defects:
                    where = place or value.source or node.source
                    yield Problem(code, path, f"{option}: {message}", where, advice)
                if option == "over" and value.kind == "literal" and not _iterable(value.of):
                    message = f"over must be iterable, got {value}"
                    advice = "a list, a range, a key, or a callable that gives one of these"
                    yield Problem("bad-option", path, message, node.source, advice)


def _iterable(value: object) -> bool:
    return hasattr(value, "__iter__") or hasattr(value, "__getitem__")


def blocks(facts: Facts) -> Iterator[Problem]:
    """Empty blocks, and names used twice."""
    for path, node in facts.blocks:
        for label, body in node.regions:
            if not body:
                what = f"{node.kind} {node.name!r}" + (f" .{label}" if label else "")
                yield Problem(
                    "empty-block",
                    path,
                    f"{what} is empty",
                    node.source,
                    "put stages in its brackets",
                )
        seen: dict[str, Node | None] = {label: None for label, _ in node.regions if label}
        for _, body in node.regions[:1]:
            yield from _twice(body, path, seen)
        for label, body in node.regions[1:]:
            yield from _twice(body, f"{path}/{label}", {})


def _twice(body: tuple[Node, ...], path: str, seen: dict[str, Node | None]) -> Iterator[Problem]:
    for node in body:
        if node.name in seen:
            first = seen[node.name]
            also = (
                f", also at {short(first.source)}"
                if first is not None
                else ", which is reserved here"
            )
            advice = "give one of them another name with .with_(name=...)"
            message = f"two nodes are called {node.name!r}{also}"
            yield Problem("duplicate-name", f"{path}/{node.name}", message, node.source, advice)
        seen.setdefault(node.name, node)


def nested_loops(facts: Facts) -> Iterator[Problem]:
    """A loop inside a loop of the same name would hide its variables."""

    def inside(node: Block, path: str, around: frozenset[str]) -> Iterator[Problem]:
        if isinstance(node, (Loop, FanOut)):
            if node.name in around:
                message = f"{node.kind} {node.name!r} is inside another loop of that name"
                yield Problem("duplicate-name", path, message, node.source, "rename one of them")
            around |= {node.name}
        for label, body in node.regions:
            for child in body:
                if isinstance(child, Block):
                    below = f"{path}/{label}" if label else path
                    yield from inside(child, f"{below}/{child.name}", around)

    path, outermost = facts.blocks[0]
    yield from inside(outermost, path, frozenset())


def places(facts: Facts) -> Iterator[Problem]:
    """Keys that exist in one place only, read in another."""
    for use in facts.flow.uses:
        where = misplaced(use, facts.flow)
        if where == ".on_error":
            message = f"reads {use.read.key!r} outside of .on_error"
            yield Problem("outside-on-error", use.path, message, use.source, "move it there")
        elif where is not None:
            message = f"reads {use.read.key!r} outside of loop {where!r}"
            advice = "move it into the loop"
            yield Problem("outside-loop", use.path, message, use.source, advice)


def types(facts: Facts) -> Iterator[Problem]:
    """Values whose declared type cannot be what their reader declares."""
    # A key may have many writers of few types: compare each pair of types once.
    groups: dict[str, dict[int, list[Writer]]] = {}
    for key, writers in facts.flow.writers.items():
        for writer in writers:
            groups.setdefault(key, {}).setdefault(id(writer.type), []).append(writer)
    fits: dict[tuple[int, int], bool] = {}
    for use in facts.flow.uses:
        found = [groups[key] for key in use.keys if key in groups]
        # Of a scope's own key and one outside, which is read is known only when it runs.
        for kind, group in found[0].items() if len(found) == 1 else ():
            pair = (id(use.read.type), kind)
            if pair not in fits:
                fits[pair] = accepts(use.read.type, group[0].type)
            for writer in group if not fits[pair] else ():
                message = (
                    f"reads {use.read.key!r} as {show(use.read.type)}, but {writer.name} "
                    f"({short(writer.source)}) writes {show(writer.type)}"
                )
                advice = "let them agree, or read or write another key: .bind(...)"
                yield Problem("type-mismatch", use.path, message, use.source, advice)


def endless_loops(facts: Facts) -> Iterator[Problem]:
    """A ``while_`` or ``stop_when`` that nothing in the body can change."""
    for path, node in facts.blocks:
        if not isinstance(node, Loop):
            continue
        if node.over is not None or node.max_iterations is not None:
            continue
        for option, predicate in node.values:
            if option not in ("while_", "stop_when"):
                continue
            if predicate.signature.injected or any_opaque(node.body):
                continue
            if predicate.of is (option == "stop_when"):  # no iteration at all
                continue
            keys = [read.key for read in predicate.reads]
            if not set(keys) & set(keys_written(node.body)):
                asks = f"reads {', '.join(map(repr, keys))}, which" if keys else "reads no key that"
                message = (
                    f"{option}={predicate} {asks} no stage of the body writes: it can never change"
                )
                advice = "or bound it: max_iterations="
                if option == "stop_when":
                    advice = "or stop_when=None, where the producer raises StopIteration"
                yield Problem("endless-loop", path, message, node.source, advice)


TEXT_RULES: tuple[TextRule, ...] = (
    declarations,
    blocks,
    nested_loops,
    places,
    types,
    endless_loops,
)
