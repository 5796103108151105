"""Every rule of validation finds its mistake, says where, and helps; right workflows pass."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_kitchen.context import Context
from crucible_kitchen.errors import WorkflowError
from crucible_kitchen.graph import Stage, find_problems, loop, stage, validate, when, workflow
from crucible_kitchen.ports import Evaluator, MetricsStore, TrainingClient


@stage(writes="rows")
def load(name: str) -> list[int]:
    return [len(name)]


@stage(writes="session")
def init_session() -> dict[str, int]:
    return {}


@stage
def use(session: dict[str, int]) -> None: ...


@stage
def use_rows(rows: list[int]) -> None: ...


@stage
def maybe(rows: list[int] | None = None) -> None: ...


@stage
def typo(sesion: Any) -> None: ...


@stage
def reads_text(session: str) -> None: ...


@stage(writes="name")
def overwrites() -> str:
    return ""


@stage(writes="loss")
def trains(*, training_client: TrainingClient) -> float:
    return 0.0


@stage
def optional_port(*, evaluator: Evaluator | None = None) -> None: ...


@stage
def unnamed() -> int:
    return 1


@stage
def looks(item: Any) -> None: ...


def plain() -> None: ...


class Opaque(Stage):
    def execute(self, ctx: Context) -> Context:
        return ctx


class NoAdapter:
    def forward_backward(self) -> None: ...


def big(loss: float) -> bool:
    return loss > 1


CONFIG = {"name": "x"}
Case = tuple[str, Callable[[], Any], str, str, str]
CASES: list[Case] = [
    ("not-a-stage", lambda: workflow("w")[plain], "w/plain", "'plain' is not a stage", "@stage"),
    ("not-a-stage", lambda: workflow("w")[3], "w/int", "3 is not a stage", "@stage"),
    (
        "not-a-stage",
        lambda: workflow("w")[load, when(True)[load].otherwise],
        "w/Brackets",
        "an open bracket is not a stage",
        r"otherwise\[",
    ),
    (
        "duplicate-name",
        lambda: workflow("w")[load, load],
        "w/load",
        r"'load'.*test_rules.py:\d+",
        r"with_\(name=",
    ),
    (
        "duplicate-name",
        lambda: workflow("w")[load.with_(name="finally")].finally_[maybe],
        "w/finally",
        "reserved",
        "with_",
    ),
    (
        "duplicate-name",
        lambda: workflow("w")[loop("l", over=[1])[when(True)[loop("l", over=[1])[load]]]],
        "w/l/when/l",
        "inside another loop",
        "rename",
    ),
    ("empty-block", lambda: workflow("w")[loop("l", over=[1])], "w/l", "'l' is empty", "brackets"),
    ("empty-block", lambda: workflow("w")[load].finally_[()], "w", ".finally is empty", "brackets"),
    (
        "unknown-option",
        lambda: workflow("w")[load.with_(retries=3)],
        "w/load",
        "unknown option 'retries'",
        "'retry'",
    ),
    (
        "unknown-option",
        lambda: workflow("w")[loop("l", over=[1], max_iteration=3)[load]],
        "w/l",
        "'max_iteration'",
        "'max_iterations'",
    ),
    ("bad-option", lambda: workflow("w")[load.with_(retry=-1)], "w/load", "got -1", ""),
    ("bad-option", lambda: workflow("w")[load.with_(timeout=-1)], "w/load", "got -1", ""),
    ("bad-option", lambda: workflow("w")[load.with_(name="a/b")], "w/load", "'a/b'", ""),
    ("bad-option", lambda: workflow("a b")[load], "a b", "'a b'", ""),
    ("bad-option", lambda: workflow("w")[loop("l")[load]], "w/l", "needs over= or while_=", ""),
    ("bad-option", lambda: workflow("w")[loop("l", over=3)[load]], "w/l", "iterable, got 3", ""),
    (
        "bad-option",
        lambda: workflow("w")[loop("l", while_=True, max_iterations=-2)[load]],
        "w/l",
        "got -2",
        "",
    ),
    ("unnamed-write", lambda: workflow("w")[unnamed], "w/unnamed", "names no key", "writes="),
    (
        "bad-signature",
        lambda: workflow("w")[when(lambda *a: True)[load]],
        "w/when",
        r"predicate: .*'\*a'",
        "",
    ),
    (
        "unknown-key",
        lambda: workflow("w")[init_session, typo],
        "w/typo",
        "reads 'sesion', which no stage writes and the config does not have",
        r"'session', written by init_session \(test_rules.py:\d+\)",
    ),
    (
        "maybe-unwritten",
        lambda: workflow("w")[when(True)[init_session], use],
        "w/use",
        "only on some paths to it, by init_session",
        "default",
    ),
    (
        "maybe-unwritten",
        lambda: workflow("w")[loop("l", over=list)[init_session], use],
        "w/use",
        "only on some paths",
        "default",
    ),
    (
        "maybe-unwritten",
        lambda: workflow("w")[init_session].finally_[use],
        "w/finally/use",
        "not there when the run fails before init_session",
        "default",
    ),
    (
        "read-before-write",
        lambda: workflow("w")[use, init_session],
        "w/use",
        "before it is written by init_session",
        "move",
    ),
    (
        "type-mismatch",
        lambda: workflow("w")[init_session, reads_text],
        "w/reads_text",
        r"'session' as str, but init_session .* writes dict\[str, int\]",
        "",
    ),
    (
        "outside-loop",
        lambda: workflow("w")[loop("l", over=[1])[load], looks.bind(item="l.item")],
        "w/looks",
        "'l.item' outside of loop 'l'",
        "into the loop",
    ),
    (
        "outside-on-error",
        lambda: workflow("w")[looks.bind(item="on_error.error")],
        "w/looks",
        "outside of .on_error",
        "move it there",
    ),
    (
        "endless-loop",
        lambda: workflow("w")[init_session, loop("l", while_=lambda session: session)[load]],
        "w/l",
        "'session', which no stage of the body writes",
        "max_iterations",
    ),
    (
        "endless-loop",
        lambda: workflow("w")[loop("l", while_=True)[load]],
        "w/l",
        "reads no key",
        "max_iterations",
    ),
    (
        "shadows-config",
        lambda: workflow("w")[overwrites],
        "w/overwrites",
        "writes 'name', which is a key of the config",
        "bind",
    ),
    (
        "timeout",
        lambda: workflow("w")[load.with_(timeout=3)],
        "w/load",
        "only an async stage can be interrupted",
        "async def",
    ),
    (
        "missing-adapter",
        lambda: workflow("w")[trains],
        "w/trains",
        "uses training_client, which has no adapter",
        "TrainingClient",
    ),
]


@pytest.mark.parametrize(("code", "make", "path", "message", "advice"), CASES)
def test_each_mistake_is_found(
    code: str, make: Callable[[], Any], path: str, message: str, advice: str
) -> None:
    found = [p for p in find_problems(make(), CONFIG, {}) if p.code == code]
    assert found, find_problems(make(), CONFIG, {})
    assert found[0].path == path
    assert re.search(message, found[0].message), found[0]
    assert re.search(advice, found[0].help), found[0]
    assert re.search(r"test_rules\.py:\d+$", found[0].source), found[0]


def test_everything_is_reported_at_once_and_once() -> None:
    value = workflow("w")[
        plain,
        load,
        load,
        loop("l", over=[1]),
        loop("m", while_=True)[typo],
        use,
        init_session,
        reads_text,
        trains.with_(timeout=3, nmae=1),
        overwrites,
        when(True)[looks.bind(item="l.item")],
    ]
    with pytest.raises(WorkflowError) as caught:
        validate(value, {"name": 3}, {"training_clint": 1})
    problems = caught.value.problems
    assert {p.code for p in problems} == {
        "not-a-stage",
        "duplicate-name",
        "empty-block",
        "endless-loop",
        "unknown-key",
        "read-before-write",
        "type-mismatch",
        "missing-adapter",
        "unknown-option",
        "timeout",
        "shadows-config",
        "outside-loop",
        "config-type",
        "unknown-port",
    }
    assert len(problems) == len(set(problems))


def test_config_problems() -> None:
    value = workflow("w")[load]
    (missing,) = find_problems(value, {})
    assert missing.code == "unknown-key"
    (misspelt,) = find_problems(workflow("w")[maybe], {"row": []})
    assert (misspelt.code, misspelt.help) == ("unknown-config-key", "did you mean 'rows'?")
    (wrong,) = find_problems(value, {"name": 12345})
    assert wrong.code == "config-type"
    assert "12345" not in str(wrong), "a value of the config may be a secret"
    assert find_problems(value, {"name": "x", "unrelated": 1}) == []


def test_adapter_problems() -> None:
    (lacks,) = find_problems(workflow("w")[trains], {}, {"training_client": NoAdapter()})
    assert lacks.code == "bad-adapter"
    assert "start_session" in lacks.message
    assert find_problems(workflow("w")[optional_port], {}, {}) == []
    (unknown,) = find_problems(workflow("w")[load], CONFIG, {"metric_store": MetricsStore})
    assert (unknown.code, unknown.help) == ("unknown-port", "did you mean 'metrics_store'?")


@pytest.mark.parametrize(
    "make",
    [
        lambda: workflow("w")[load, use_rows],
        lambda: workflow("w")[load, loop("l", over="rows")[looks.bind(item="l.item")]],
        lambda: workflow("w")[when(True)[init_session].otherwise[init_session], use],
        lambda: workflow("w")[loop("l", over=[1, 2])[init_session], use],
        lambda: workflow("w")[maybe, load],
        lambda: workflow("w")[Opaque, use],
        lambda: workflow("w")[loop("l", over=[1])[when(True)[use], Opaque]],
        lambda: workflow("w")[init_session].finally_[maybe],
        lambda: workflow("w")[loop("l", while_=True, max_iterations=2)[load]],
        lambda: workflow("w")[
            trains, loop("l", while_=big)[trains.bind(writes="loss")], looks.bind(item="loss")
        ],
        lambda: workflow("w")[looks.bind(item=7)],
    ],
)
def test_right_workflows_pass(make: Callable[[], Any]) -> None:
    problems = find_problems(make(), CONFIG)
    assert problems == [], problems


def test_without_a_config_a_key_nobody_writes_is_taken_to_be_in_it() -> None:
    assert find_problems(workflow("w")[load, typo]) == []
    assert [p.code for p in find_problems(workflow("w")[load, typo], CONFIG)] == ["unknown-key"]


class Pair(NamedTuple):
    x: int
    y: int


@stage
def pair() -> Pair:
    return Pair(1, 2)


READERS = {key: stage(lambda v: None).with_(name=f"read_{key}").bind(v=key) for key in "abc"}
WRITERS = {key: stage(writes=key)(lambda: 1).with_(name=f"write_{key}") for key in "abc"}
leaf = st.sampled_from([*READERS.values(), *WRITERS.values()])


@st.composite
def bodies(draw: st.DrawFn, depth: int = 2) -> list[Any]:
    nodes: list[Any] = []
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["leaf", "leaf", "when", "loop"])) if depth else "leaf"
        if kind == "leaf":
            node = draw(leaf)
            nodes.append(node.with_(name=f"{node.name}_{number}"))
        elif kind == "when":
            branch = when(lambda coin: coin())[draw(bodies(depth - 1))]
            nodes.append(
                branch.otherwise[draw(bodies(depth - 1))] if draw(st.booleans()) else branch
            )
        else:
            nodes.append(
                loop(f"l{depth}{number}", over=lambda count: range(count()))[
                    draw(bodies(depth - 1))
                ]
            )
    return nodes


@settings(max_examples=150, deadline=None)
@given(bodies(), st.lists(st.booleans(), min_size=30, max_size=30))
def test_what_validation_accepts_never_misses_a_key(body: list[Any], coins: list[bool]) -> None:
    """Definite assignment is sound: an accepted program finds every key on every path."""
    from crucible_kitchen.engine import run

    tosses = iter(coins * 100)
    config = {"coin": lambda: next(tosses), "count": lambda: 2 if next(tosses) else 0}
    value = workflow("w")[body]
    if not find_problems(value, config):
        run(value, config)


def test_checking_is_cheap() -> None:
    """The target is 10 us a node of a quiet machine; the bound leaves room for a busy one."""
    flat = [load] + [
        use_rows.with_(name=f"u{i}") if i % 2 else init_session.with_(name=f"i{i}")
        for i in range(2000)
    ]
    blocks = [load] + [
        loop(f"l{i}", over="rows")[use_rows, when(True)[init_session, use]] for i in range(400)
    ]
    for body in (flat, blocks):
        value = workflow("w")[body]
        best = min(_seconds(lambda: find_problems(value, CONFIG)) for _ in range(5))  # noqa: B023
        assert best / 2000 < 40e-6, f"{best / 2000 * 1e6:.1f} us a node"


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began
