"""Random programs give the same result at any concurrency."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Rng, run
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import (
    Block,
    FanOut,
    Node,
    Parallel,
    StageNode,
    Workflow,
    fan_out,
    find_problems,
    loop,
    parallel,
    scope,
    stage,
    stream_loop,
    when,
    workflow,
)

KEYS = "abcd"


def work(read: int, other: int, *, rng: Rng, metrics: Metrics) -> int:
    """Mixes what it reads with random numbers, takes its time, and fails now and then."""
    number = int(rng.integers(1000))
    time.sleep((number % 4) * 2e-4)
    metrics.record("number", number, step=read)
    if number >= 990:
        raise ValueError(f"{number} of {read} and {other}")
    return (31 * read + 17 * other + number) % 10_007


async def work_async(read: int, other: int, *, rng: Rng, metrics: Metrics) -> int:
    return work(read, other, rng=rng, metrics=metrics)


START = [stage(writes=key)(lambda n=i: n).with_(name=f"start_{key}") for i, key in enumerate(KEYS)]  # type: ignore[misc]


@st.composite
def stages(draw: st.DrawFn, keys: str) -> StageNode:
    function = draw(st.sampled_from([work, work, work_async]))
    key = st.sampled_from(keys)
    node = stage(writes="out")(function)
    return node.bind(read=draw(key), other=draw(key), writes=draw(key))


@st.composite
def bodies(draw: st.DrawFn, depth: int = 3, keys: str = KEYS) -> list[Any]:
    kinds = ["stage", "stage"]
    if depth:
        kinds += ["loop", "when", "parallel", "fan_out", "scope", "stream_loop"]
    nodes: list[Any] = []
    for number in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(kinds))
        name = f"{kind}_{depth}{number}"
        inside = bodies(depth - 1, keys)
        if kind == "stage":
            nodes.append(draw(stages(keys)).with_(name=name))
        elif kind == "parallel":
            members = draw(independent(depth - 1, keys))
            nodes.append(parallel(name)[members])
        elif kind == "fan_out":
            collect = draw(st.sampled_from(keys))
            body = [draw(inside), draw(stages(keys)).bind(writes=collect).with_(name="last")]
            block = fan_out(name, over=range(draw(st.integers(0, 4))), collect=collect)
            total = stage(writes="out")(sum_up).bind(every=f"{name}.{collect}", writes=collect)
            nodes += [block[body], total.with_(name=f"sum_{number}")]
        elif kind == "when":
            branch = when(odd(draw(st.sampled_from(keys))))[draw(inside)]
            nodes.append(branch.otherwise[draw(inside)])
        elif kind == "scope":
            nodes.append(scope(name)[draw(inside)])
        else:
            make = loop if kind == "loop" else stream_loop
            nodes.append(make(name, over=range(draw(st.integers(0, 3))))[draw(inside)])
    return nodes


@st.composite
def independent(draw: st.DrawFn, depth: int, keys: str) -> list[Any]:
    """Members that touch keys of their own, as validation demands."""
    members: list[Any] = []
    for number, share in enumerate((keys[::2], keys[1::2])):
        name = f"m{number}"
        if share and draw(st.booleans()):
            members.append(scope(name)[draw(bodies(depth, share))])
        elif share:
            members.append(draw(stages(share)).with_(name=name))
    return members


def sum_up(every: list[int]) -> int:
    return sum(every) % 10_007


def odd(key: str) -> Any:
    return {
        "a": lambda a: a % 2 == 1,
        "b": lambda b: b % 2 == 1,
        "c": lambda c: c % 2 == 1,
        "d": lambda d: d % 2 == 1,
    }[key]


def limited(node: Node, width: int | None) -> Node:
    """The same program with another concurrency everywhere."""
    if not isinstance(node, Block):
        return node
    changes: dict[str, Any] = {
        f"{label}_body" if label else "body": tuple(limited(child, width) for child in body)
        for label, body in node.regions
    }
    if isinstance(node, (Parallel, FanOut)):
        changes["max_concurrency"] = width
    return replace(node, **changes)


def outcome(value: Workflow) -> Any:
    last: list[Context] = []
    error = ""
    try:
        run(value, on_context=last.append)
    except StageError as failure:
        error = str(failure)
    (context,) = last
    records = [(m.name, m.value, m.step) for m in context.metrics]
    return error, list(context.state.items()), records


@settings(max_examples=60, deadline=None)
@given(bodies())
def test_any_concurrency_gives_the_same_result(body: list[Any]) -> None:
    value = workflow("w")[START, body]
    assert find_problems(value) == []
    wanted = outcome(limited(value, 1))  # type: ignore[arg-type]
    for width in (2, 3, None):
        got = outcome(limited(value, width))  # type: ignore[arg-type]
        assert got == wanted
