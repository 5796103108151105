"""Rules of `switch`, `parallel`, `fan_out`, `stream_loop` and `scope`: each mistake is found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crucible_kitchen.context import Context
from crucible_kitchen.graph import (
    Stage,
    case,
    fan_out,
    find_problems,
    loop,
    parallel,
    scope,
    stage,
    stream_loop,
    switch,
    when,
    workflow,
)
from crucible_kitchen.graph.flow import analyse
from crucible_kitchen.ports import HubClient, TrainingClient


@stage(writes="a")
def write_a() -> int:
    return 1


@stage(writes="b")
def write_b() -> str:
    return ""


@stage
def read_a(a: int) -> None: ...


@stage
def read_b(b: str) -> None: ...


@stage(writes="loss")
def train(x: float, *, training_client: TrainingClient) -> float:
    return x


@stage
def trains_too(*, training_client: TrainingClient) -> None: ...


@stage
def downloads(*, hub_client: HubClient) -> None: ...


@stage
def sees(ctx: Context) -> None: ...


class Opaque(Stage):
    def execute(self, ctx: Context) -> Context:
        return ctx


def numbers(*, training_client: TrainingClient) -> Iterator[int]:
    yield 1


CASES: list[tuple[str, Callable[[], Any], str, str, str]] = [
    ("not-a-case", lambda: workflow("w")[switch("m")[write_a]], "w/m/write_a", "without a", "case"),
    ("not-a-case", lambda: workflow("w")[case(1)[write_a]], "w/1", "outside of a switch", "switch"),
    (
        "duplicate-case",
        lambda: workflow("w")[switch("m")[case("x", "y")[write_a], case("y")[write_b]]],
        "w/m/y",
        r"'y' has a case already, at test_block_rules.py:\d+",
        "",
    ),
    ("bad-option", lambda: workflow("w")[switch("m")[case()[write_a]]], "w/m/case", "no value", ""),
    (
        "bad-option",
        lambda: workflow("w")[switch("m")[case([1])[write_a]]],
        "w/m/_1_",
        "hashable, got list",
        "",
    ),
    ("empty-block", lambda: workflow("w")[switch("m")[case(1)]], "w/m/1", "'1' is empty", ""),
    (
        "maybe-unwritten",
        lambda: workflow("w")[switch("m")[case(1)[write_a], case(2)[write_b]], read_a],
        "w/read_a",
        "only on some paths to it, by write_a",
        "default",
    ),
    (
        "not-independent",
        lambda: workflow("w")[parallel("p")[write_a, write_a.with_(name="again")]],
        "w/p/again",
        r"writes 'a', which 'write_a' \(test_block_rules.py:\d+\) beside it writes too",
        "another key",
    ),
    (
        "not-independent",
        lambda: workflow("w")[parallel("p")[write_a, when(True)[read_a]]],
        "w/p/when",
        "reads 'a', which 'write_a'",
        "behind",
    ),
    (
        "not-independent",
        lambda: workflow("w")[write_a, parallel("p")[read_a, write_a.with_(name="x")]],
        "w/p/x",
        "writes 'a', which 'read_a' .* reads",
        "behind",
    ),
    (
        "not-independent",
        lambda: workflow("w")[parallel("p")[train.bind(x=1), trains_too]],
        "w/p/trains_too",
        "uses training_client, which takes one stage at a time",
        "after the other",
    ),
    (
        "not-independent",
        lambda: workflow("w")[parallel("p")[write_a, sees]],
        "w/p/sees",
        "may read any key",
        "name what",
    ),
    (
        "not-independent",
        lambda: workflow("w")[parallel("p")[write_a, Opaque]],
        "w/p/opaque",
        "may read any key",
        "name what",
    ),
    (
        "not-independent",
        lambda: workflow("w")[parallel("p")[scope("s")[read_a, write_b], write_a]],
        "w/p/write_a",
        "writes 'a', which 's' .* reads",
        "behind",
    ),
    (
        "not-independent",
        lambda: workflow("w")[fan_out("f", over=[1])[train.bind(x="f.item")]],
        "w/f",
        "its copies use training_client",
        "max_concurrency=1",
    ),
    (
        "not-independent",
        lambda: workflow("w")[stream_loop("s", over=numbers)[trains_too]],
        "w/s",
        "source and body use training_client",
        "loop",
    ),
    (
        "unknown-key",
        lambda: workflow("w")[fan_out("f", over=[1], collect="aa")[write_a]],
        "w/f",
        "collects 'aa', which no stage of the body writes",
        "'a'",
    ),
    (
        "maybe-unwritten",
        lambda: workflow("w")[fan_out("f", over=[1], collect="a")[when("c")[write_a]]],
        "w/f",
        "only on some paths",
        "every path",
    ),
    (
        "unknown-key",
        lambda: workflow("w")[fan_out("f", over=[1])[write_a], read_b],
        "w/read_b",
        "reads 'b'",
        "",
    ),
    (
        "read-before-write",
        lambda: workflow("w")[scope("s")[read_a, write_a], write_a],
        "w/s/read_a",
        "before it is written by write_a",
        "up",
    ),
    ("unknown-key", lambda: workflow("w")[scope("s")[write_a], read_a], "w/read_a", "'a'", "'s.a'"),
    (
        "type-mismatch",
        lambda: workflow("w")[scope("s")[write_a, read_b.bind(b="a")]],
        "w/s/read_b",
        "reads 'a' as str, but write_a",
        "",
    ),
    (
        "type-mismatch",
        lambda: workflow("w")[fan_out("f", over=[1], collect="a")[write_a], read_a.bind(a="f.a")],
        "w/read_a",
        "reads 'f.a' as int, but f .* writes list",
        "",
    ),
    (
        "outside-loop",
        lambda: workflow("w")[fan_out("f", over=[1])[write_a], read_a.bind(a="f.item")],
        "w/read_a",
        "'f.item' outside of loop 'f'",
        "",
    ),
    (
        "shadows-config",
        lambda: workflow("w")[scope("s")[write_a.bind(writes="m")]],
        "w/s/write_a",
        "writes 'm', which is a key of the config",
        "bind",
    ),
    ("bad-option", lambda: workflow("w")[parallel("p q")[write_a]], "w/p q", "'p q'", ""),
    (
        "bad-option",
        lambda: workflow("w")[parallel("p", max_concurrency=0)[write_a]],
        "w/p",
        "max_concurrency must be an int of at least 1, got 0",
        "",
    ),
    (
        "unknown-option",
        lambda: workflow("w")[parallel("p", max_concurency=1)[write_a]],
        "w/p",
        "'max_concurency'",
        "'max_concurrency'",
    ),
    ("bad-option", lambda: workflow("w")[fan_out("f")[write_a]], "w/f", "needs over=", "copies"),
    ("bad-option", lambda: workflow("w")[fan_out("f", over=3)[write_a]], "w/f", "iterable", ""),
    (
        "bad-option",
        lambda: workflow("w")[fan_out("f", over=[1], collect=3)[write_a]],  # type: ignore[arg-type]
        "w/f",
        "collect must be a key",
        "",
    ),
    ("bad-option", lambda: workflow("w")[stream_loop("s")[write_a]], "w/s", "needs over=", ""),
    (
        "bad-option",
        lambda: workflow("w")[stream_loop("s", over=[1], prefetch=-1)[write_a]],
        "w/s",
        "prefetch must be an int of at least 1, got -1",
        "",
    ),
    (
        "unknown-option",
        lambda: workflow("w")[stream_loop("s", over=[1], prefech=2)[write_a]],
        "w/s",
        "'prefech'",
        "'prefetch'",
    ),
    ("empty-block", lambda: workflow("w")[scope("s")], "w/s", "scope 's' is empty", "brackets"),
    ("not-a-stage", lambda: workflow("w")[workflow("v")[write_a]], "w/v", "workflow 'v'", "scope"),
]


@pytest.mark.parametrize(("code", "make", "path", "message", "advice"), CASES)
def test_each_mistake_is_found(
    code: str, make: Callable[[], Any], path: str, message: str, advice: str
) -> None:
    config = {"m": 1, "c": True}
    found = [p for p in find_problems(make(), config) if p.code == code]
    assert found, find_problems(make(), config)
    assert found[0].path == path
    assert re.search(message, found[0].message), found[0]
    assert re.search(advice, found[0].help), found[0]
    assert re.search(r"test_block_rules\.py:\d+$", found[0].source), found[0]


class Concurrent:
    concurrent = True


@pytest.mark.parametrize(
    "make",
    [
        lambda: workflow("w")[switch("m")[case(1)[write_a], case(2)[write_a]], read_a],
        lambda: workflow("w")[switch("m")[case(1)[write_a]].otherwise[write_a], read_a],
        lambda: workflow("w")[parallel("p")[write_a, write_b], read_a, read_b],
        lambda: workflow("w")[write_a, parallel("p")[read_a, read_a.with_(name="x")]],
        lambda: workflow("w")[parallel("p")[downloads, downloads.with_(name="x")]],
        lambda: workflow("w")[
            parallel("p")[scope("s")[write_a, read_a], scope("t")[write_a, read_a]]
        ],
        lambda: workflow("w")[
            parallel("p")[fan_out("f", over=[1])[write_a, read_a], write_a], read_a
        ],
        lambda: workflow("w")[fan_out("f", over=[1], max_concurrency=1)[trains_too]],
        lambda: workflow("w")[
            scope("s")[write_a, read_a], read_a.bind(a="s.a"), scope("t")[read_a.bind(a="s.a")]
        ],
        lambda: workflow("w")[write_a, loop("l", over=[1])[scope("s")[read_a, write_a]]],
        lambda: workflow("w")[fan_out("f", over=[1], collect={"a": "all"})[Opaque, write_a]],
        lambda: workflow("w")[stream_loop("s", over=[1])[write_a.bind()], read_a],
    ],
)
def test_right_workflows_pass(make: Callable[[], Any]) -> None:
    problems = find_problems(make(), {"m": 1})
    assert problems == [], problems


def test_an_adapter_may_take_more_than_its_port_promises() -> None:
    value = workflow("w")[fan_out("f", over=[1])[trains_too]]
    codes = [p.code for p in find_problems(value, {}, {"training_client": Concurrent()})]
    assert "not-independent" not in codes
    assert "not-independent" in [p.code for p in find_problems(value)]


def test_a_member_of_a_parallel_block_does_not_write_what_it_reads_before() -> None:
    grow = stage(writes="a")(lambda a: a).with_(name="grow")
    (problem,) = find_problems(workflow("w")[parallel("p")[grow, write_b]], {})
    assert (problem.code, problem.path) == ("read-before-write", "w/p/grow")


def test_a_name_of_a_scope_outside_is_not_read_in_one_of_its_name_inside_another() -> None:
    inside = scope("t")[scope("s")[read_b]]
    [use] = analyse(workflow("w")[scope("s")[write_b], inside]).uses
    assert (use.status, use.keys) == ("never", ("t.s.b", "t.b", "b"))
    [use] = analyse(workflow("w")[scope("t")[scope("s")[write_b]], inside]).uses
    assert use.status == "certain"
