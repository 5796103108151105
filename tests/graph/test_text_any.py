"""Any workflow comes back equal from JSON and from YAML: random blocks, values and options."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible_kitchen.graph import (
    Retry,
    Workflow,
    case,
    fan_out,
    loop,
    parallel,
    scope,
    stage,
    stream_loop,
    switch,
    when,
    workflow,
)
from crucible_kitchen.graph.stage import Literal


@stage(writes="y")
def one(x: Any = 0, z: Any = 0) -> int:
    return 0


@stage(writes="z", retry=2)
async def two(y: Any = 0) -> None: ...


def choose(x: int = 0) -> bool:
    return True


# YAML has traps for texts that look like something else.
TEXTS = st.sampled_from(
    [
        "",
        "on",
        "no",
        "null",
        "~",
        "1e5",
        "2e-5",
        "1:30",
        "a: b",
        "- x",
        "#",
        "é\x85",
        "\u2028",
        "'",
        "\n",
        "x\ty",
    ]
) | st.text(max_size=6)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXTS | st.just("tuple"), inner, max_size=2)
        | st.frozensets(st.integers() | TEXTS, max_size=3)
        | st.builds(range, st.integers(0, 9), st.integers(0, 9), st.integers(1, 3))
    ),
    max_leaves=4,
)
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,5}", fullmatch=True)
KEYS = st.sampled_from(["x", "l.item", "a:b", "on", "1e5"])
VALUES = PLAIN.filter(lambda value: not isinstance(value, str)) | KEYS | st.just(choose)
RETRIES = st.integers(1, 5) | st.builds(
    Retry,
    st.integers(1, 5),
    backoff=st.floats(0, 9),
    on=st.sampled_from([Exception, OSError, (OSError, ValueError)]),
    jitter=st.floats(0, 1),
)


@st.composite
def stages(draw: Any) -> Any:
    node = draw(st.sampled_from([one, two]))
    if node is one and draw(st.booleans()):
        bound = {"x": draw(KEYS), "z": Literal(draw(PLAIN))}
        node = node.bind(**bound, writes=draw(KEYS))
    if draw(st.booleans()):
        node = node.with_(name=draw(NAMES), after=draw(st.lists(NAMES, max_size=2)))
    if draw(st.booleans()):
        node = node.with_(retry=draw(RETRIES | st.none()), timeout=draw(st.floats(0.1, 9)))
    return node


def bodies(depth: int) -> Any:
    """Up to three nodes; blocks are nested at most so deep."""
    return st.lists(stages() | blocks(depth) if depth else stages(), min_size=1, max_size=3)


@st.composite
def blocks(draw: Any, depth: int) -> Any:
    name, value, count = draw(NAMES), draw(VALUES), draw(st.integers(1, 9))
    inside = draw(bodies(depth - 1))
    made: list[Any] = [
        loop(name, over=value, max_iterations=draw(st.none() | st.just(count))),
        loop(name, while_=value, over=draw(VALUES)),
        stream_loop(name, over=value, prefetch=count),
        when(value),
        parallel(name, max_concurrency=draw(st.none() | st.just(count))),
        fan_out(name, over=value, collect={"y": draw(TEXTS)}, max_concurrency=count),
        scope(name),
    ]
    kind = draw(st.integers(0, len(made)))
    if kind == len(made):
        matches = draw(st.lists(PLAIN.filter(_hashable), min_size=1, max_size=3))
        block: Any = switch(value)[[case(match)[inside] for match in matches]]
    else:
        block = made[kind][inside]
    if block.kind in ("when", "switch") and draw(st.booleans()):
        block = block.otherwise[draw(bodies(depth - 1))]
    return block


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(bodies(2), st.none() | bodies(1), st.none() | bodies(1))
def test_any_workflow_comes_back_equal(body: Any, final: Any, failed: Any) -> None:
    value = workflow("w")[body]
    value = value if final is None else value.finally_[final]
    value = value if failed is None else value.on_error[failed]
    for back in (Workflow.from_json(value.to_json()), Workflow.from_yaml(value.to_yaml())):
        assert back == value
        assert hash(back) == hash(value)
        assert back.to_json() == value.to_json()
