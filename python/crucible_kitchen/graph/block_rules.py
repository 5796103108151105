"""Rules of single kinds of blocks: `switch`, `parallel`, `fan_out`, and what loops are fed by."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import isasyncgenfunction, isgeneratorfunction
from itertools import combinations

from crucible_kitchen.errors import Problem, did_you_mean

from .blocks import Node
from .branches import Case, Switch
from .checked import Checked, Rule, short
from .facts import Facts, TextRule
from .flow import certainly_written, keys_read
from .keys import any_opaque, is_exclusive, keys_written, ports_used, sees_anything
from .loops import AsyncLoop, StreamLoop
from .together import FanOut, Parallel


def cases(facts: Facts) -> Iterator[Problem]:
    """A `case` outside of a `switch`, something else inside one, a value in two cases."""
    inside: set[int] = set()
    for path, node in facts.blocks:
        if not isinstance(node, Switch):
            continue
        first: dict[object, Case] = {}
        for child in node.body:
            where = f"{path}/{child.name}"
            if not isinstance(child, Case):
                message = f"{child.name!r} stands in a switch without a case"
                advice = 'write case("value")[...]'
                yield Problem("not-a-case", where, message, child.source or node.source, advice)
                continue
            inside.add(id(child))
            for value in child.matches:
                try:
                    before = first.setdefault(value, child)
                except TypeError:  # not hashable, which `case` has noted
                    continue
                if before is not child:
                    message = f"value {value!r} has a case already, at {short(before.source)}"
                    advice = "take it out of one of them"
                    yield Problem("duplicate-case", where, message, child.source, advice)
    for path, node in facts.blocks:
        if isinstance(node, Case) and id(node) not in inside:
            advice = "put it into the brackets of a switch"
            yield Problem("not-a-case", path, "a case outside of a switch", node.source, advice)


def parallel_members(checked: Checked) -> Iterator[Problem]:
    """Members of a `parallel` of which one could notice the other."""
    for path, node in checked.facts.blocks:
        if not isinstance(node, Parallel):
            continue
        for member in node.body:
            if sees_anything([member]) or any_opaque([member]):
                message = f"{member.name!r} may read any key, so it is not known to be independent"
                advice = "name what it reads and writes, or move it out of the parallel block"
                where = f"{path}/{member.name}"
                yield Problem("not-independent", where, message, member.source, advice)
        for one, other in combinations(node.body, 2):
            for message, advice in _conflicts(one, other, checked):
                where = f"{path}/{other.name}"
                yield Problem("not-independent", where, message, other.source, advice)


def _conflicts(one: Node, other: Node, checked: Checked) -> Iterator[tuple[str, str]]:
    writes, others_writes = set(keys_written([one])), set(keys_written([other]))
    named = f"{one.name!r} ({short(one.source)})"
    for key in sorted(writes & others_writes):
        advice = "let one of them write another key: .bind(writes=...)"
        yield f"writes {key!r}, which {named} beside it writes too", advice
    for key in sorted(writes & set(keys_read([other]))):
        yield f"reads {key!r}, which {named} beside it writes", "move it behind the parallel block"
    for key in sorted(others_writes & set(keys_read([one]))):
        yield f"writes {key!r}, which {named} beside it reads", "move it behind the parallel block"
    for port in sorted(ports_used([one]) & ports_used([other])):
        if is_exclusive(port, checked.adapters):
            advice = "let them stand one after the other"
            yield f"uses {port}, which takes one stage at a time, and so does {named}", advice


def copies(checked: Checked) -> Iterator[Problem]:
    """What a `fan_out` collects and nobody writes, and copies that would share a port."""
    for path, node in checked.facts.blocks:
        if not isinstance(node, FanOut):
            continue
        written, certain = set(keys_written(node.body)), certainly_written(node.body)
        for key, _ in node.collect:
            if key not in written and not any_opaque(node.body):
                message = f"collects {key!r}, which no stage of the body writes"
                advice = did_you_mean(key, written)
                yield Problem("unknown-key", path, message, node.source, advice)
            elif key in written - certain:
                message = f"collects {key!r}, which is written only on some paths"
                advice = "write it on every path of the body"
                yield Problem("maybe-unwritten", path, message, node.source, advice)
        if node.max_concurrency != 1:
            for port in sorted(ports_used(node.body)):
                if is_exclusive(port, checked.adapters):
                    message = f"its copies use {port}, which takes one stage at a time"
                    advice = "one copy after the other: max_concurrency=1"
                    yield Problem("not-independent", path, message, node.source, advice)


def sources(checked: Checked) -> Iterator[Problem]:
    """What makes the items of a loop uses a port while the body uses it."""
    for path, node in checked.facts.blocks:
        if isinstance(node, AsyncLoop):
            what, value = "producer", node.producer
        elif isinstance(node, StreamLoop) and node.over is not None:
            what, value = "source", node.over
        else:
            continue
        used = {i.role for i in value.signature.injected if i.is_port}
        for port in sorted(used & ports_used(node.body)):
            if is_exclusive(port, checked.adapters):
                message = f"{what} and body use {port}, which takes one stage at a time"
                yield Problem("not-independent", path, message, node.source, "use a loop")


def producers(facts: Facts) -> Iterator[Problem]:
    """A producer that is not called once for each item: a key, or a generator."""
    for path, node in facts.blocks:
        if not isinstance(node, AsyncLoop):
            continue
        made_by = node.producer
        if made_by.kind == "key":
            message = f"producer {made_by.of!r} is no method of a Workflow class"
            advice = "pass the function that makes one item"
            yield Problem("bad-option", path, message, node.source, advice)
        elif isgeneratorfunction(made_by.of) or isasyncgenfunction(made_by.of):
            message = f"producer {made_by} is a generator, which sees the state of its start only"
            where = made_by.source or node.source
            yield Problem("bad-option", path, message, where, "return one item a call")


BLOCK_TEXT_RULES: tuple[TextRule, ...] = (cases, producers)
BLOCK_RULES: tuple[Rule, ...] = (parallel_members, copies, sources)
