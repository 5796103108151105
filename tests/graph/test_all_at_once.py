"""Every defect of a workflow stands in one report, with its path, its line and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_kitchen.errors import WorkflowError
from crucible_kitchen.graph import (
    case,
    find_problems,
    loop,
    parallel,
    stage,
    stream_loop,
    switch,
    validate,
    when,
    workflow,
)
from crucible_kitchen.ports import Evaluator, TrainingClient

# A number behind a line is that of the defect that must be reported there.


@stage(writes="session")
def init_session(model: str) -> dict[str, int]:
    return {}


def helper() -> None: ...


@stage  # 8
def reads_misspelt(sesion: Any) -> None: ...


@stage(writes="batch")
def make_batch() -> list[int]:
    return [1]


@stage  # 9
def needs_batch(batch: list[int]) -> None: ...


@stage  # 10
def too_early(later: int) -> None: ...


@stage(writes="later")
def write_later() -> int:
    return 1


@stage  # 11
def reads_as_text(session: str) -> None: ...


@stage  # 12
def looks(item: Any) -> None: ...


@stage(writes="score")
def score_one() -> float:
    return 1.0


@stage(writes="score")  # 13
def score_two() -> float:
    return 1.0


@stage  # 14
def reads_score(score: float) -> None: ...


@stage(writes="model")  # 16
def writes_config() -> str:
    return ""


@stage  # 17
def reads_rate(learning_rate: float) -> None: ...


@stage  # 19
def trains(*, training_client: TrainingClient) -> None: ...


@stage  # 20
def judges(*, evaluator: Evaluator) -> None: ...


@stage  # 21
def blocks_for_ever() -> None: ...


@stage  # 22
def unnamed() -> int:
    return 1


@stage  # 23
def undeclared(*, batch_size: int) -> None: ...


@stage  # 25
def idle() -> None: ...


class HalfAnEvaluator:
    def judge(self) -> None: ...


def with_everything_wrong() -> Any:
    return workflow("w")[  # 18
        helper,
        init_session,
        init_session,
        loop("nothing", over=[1]),  # 3
        idle.with_(name="a", retries=3),  # 4
        idle.with_(name="b", timeout=-1),  # 5
        stream_loop("stream", over=[1], prefetch=-2)[idle],  # 6
        make_batch.with_(name="first", after="last"),
        needs_batch.with_(name="last"),
        reads_misspelt,
        when(True)[make_batch.with_(name="sometimes").bind(writes="rarely")],
        needs_batch.with_(name="hopes").bind(batch="rarely"),
        too_early,
        write_later,
        reads_as_text,
        loop("epochs", over=[1])[idle],
        looks.bind(item="epochs.item"),
        parallel("pair")[score_one, score_two],
        parallel("mixed")[score_one.with_(name="writer"), reads_score],
        loop("ever", while_="session")[idle],  # 15
        writes_config,
        reads_rate,
        trains,
        judges,
        blocks_for_ever.with_(timeout=3),
        unnamed,
        undeclared,
        idle.bind(bacth="batch").with_(name="c"),  # 24
        loop("turns", over=[1])[
            idle.with_(name="round", after="again"),
            idle.with_(name="again", after="round"),
        ],
    ]


WANTED = {
    1: ("not-a-stage", "w/helper"),
    2: ("duplicate-name", "w/init_session"),
    3: ("empty-block", "w/nothing"),
    4: ("unknown-option", "w/a"),
    5: ("bad-option", "w/b"),
    6: ("bad-option", "w/stream"),
    7: ("after-later", "w/first"),
    8: ("unknown-key", "w/reads_misspelt"),
    9: ("maybe-unwritten", "w/hopes"),
    10: ("read-before-write", "w/too_early"),
    11: ("type-mismatch", "w/reads_as_text"),
    12: ("outside-loop", "w/looks"),
    13: ("not-independent", "w/pair/score_two"),
    14: ("not-independent", "w/mixed/reads_score"),
    15: ("endless-loop", "w/ever"),
    16: ("shadows-config", "w/writes_config"),
    17: ("config-type", "w/reads_rate"),
    18: ("unknown-config-key", "w"),
    19: ("missing-adapter", "w/trains"),
    20: ("bad-adapter", "w/judges"),
    21: ("timeout", "w/blocks_for_ever"),
    22: ("unnamed-write", "w/unnamed"),
    23: ("not-injectable", "w/undeclared"),
    24: ("unknown-option", "w/c"),
    25: ("cycle", "w/turns"),
    26: ("after-later", "w/turns/round"),
}
CONFIG = {"model": "m", "learning_rate": "fast", "rarley": 1}


def test_all_defects_in_one_report() -> None:
    lines = Path(__file__).read_text().splitlines()
    marked = {
        int(found[1]): number
        for number, line in enumerate(lines, 1)
        if (found := re.search(r"  # (\d+)$", line))
    }
    # These two have no line of their own: what is no stage stands at its brackets.
    marked[1] = marked[18]
    marked[2] = next(n for n, line in enumerate(lines, 1) if 'stage(writes="session")' in line)
    marked[26] = marked[25]
    marked[7] = next(n for n, line in enumerate(lines, 1) if 'stage(writes="batch")' in line)
    with pytest.raises(WorkflowError) as caught:
        validate(with_everything_wrong(), CONFIG, {"evaluator": HalfAnEvaluator})
    found = {(problem.code, problem.path): problem for problem in caught.value.problems}
    assert set(found) == set(WANTED.values())
    for number, where in WANTED.items():
        problem = found[where]
        assert problem.help, f"{problem} does not say what to do"
        assert problem.source == f"{__file__}:{marked[number]}", f"{number}: {problem}"
    assert "'last'" in found[WANTED[7]].message
    assert "round -> again -> round" in found[WANTED[25]].message
    assert "did you mean 'session', written by init_session" in found[WANTED[8]].help
    assert "HalfAnEvaluator lacks evaluate" in found[WANTED[20]].message


# Each gives nodes, and the code and the name that must be reported, whatever stands around.
Defective = Callable[[str], tuple[list[Any], str, str]]


@stage(writes="value")
def give() -> int:
    return 1


@stage
def take(value: int) -> None: ...


@stage
def take_text(value: str) -> None: ...


@stage(writes="other")
def takes_port(value: int, *, training_client: TrainingClient) -> int:
    return value


DEFECTS: dict[str, Defective] = {
    "unknown-key": lambda n: ([take.bind(value=f"{n}_gone").with_(name=n)], "unknown-key", n),
    "unknown-option": lambda n: ([idle.with_(name=n, tiemout=1)], "unknown-option", n),
    "timeout": lambda n: ([idle.with_(name=n, timeout=1)], "timeout", n),
    "retry": lambda n: ([idle.with_(name=n, retry=0)], "bad-option", n),
    "empty": lambda n: ([loop(n, over=[1])], "empty-block", n),
    "endless": lambda n: ([loop(n, while_=True)[idle]], "endless-loop", n),
    "twice": lambda n: ([idle.with_(name=n), idle.with_(name=n)], "duplicate-name", n),
    "prefetch": lambda n: ([stream_loop(n, over=[1], prefetch=0)[idle]], "bad-option", n),
    "not iterable": lambda n: ([loop(n, over=1)[idle]], "bad-option", n),
    "outside": lambda n: (
        [loop(f"{n}_l", over=[1])[idle], looks.bind(item=f"{n}_l.item").with_(name=n)],
        "outside-loop",
        n,
    ),
    "early": lambda n: (
        [
            take.bind(value=f"{n}_v").with_(name=n),
            give.bind(writes=f"{n}_v").with_(name=f"{n}_w"),
        ],
        "read-before-write",
        n,
    ),
    "type": lambda n: (
        [
            give.bind(writes=f"{n}_v").with_(name=f"{n}_w"),
            take_text.bind(value=f"{n}_v").with_(name=n),
        ],
        "type-mismatch",
        n,
    ),
    "some paths": lambda n: (
        [
            loop(f"{n}_l", over="lines")[give.bind(writes=f"{n}_v")],
            take.bind(value=f"{n}_v").with_(name=n),
        ],
        "maybe-unwritten",
        n,
    ),
    "adapter": lambda n: (
        [takes_port.bind(value=1, writes=f"{n}_o").with_(name=n)],
        "missing-adapter",
        n,
    ),
    "members": lambda n: (
        [
            parallel(f"{n}_p")[
                give.bind(writes=f"{n}_v").with_(name=f"{n}_w"),
                give.bind(writes=f"{n}_v").with_(name=n),
            ]
        ],
        "not-independent",
        n,
    ),
    "later": lambda n: (
        [
            give.bind(writes=f"{n}_v").with_(name=n, after=f"{n}_t"),
            take.bind(value=f"{n}_v").with_(name=f"{n}_t"),
        ],
        "after-later",
        n,
    ),
    "another-case": lambda n: ([switch(f"{n}_s")[case(1)[idle]]], "unknown-key", f"{n}_s"),
}


@st.composite
def programs(draw: st.DrawFn) -> tuple[Any, set[tuple[str, str]]]:
    """A program that is right, but for the defects put into it at random places."""
    number = iter(range(10_000))
    put: set[tuple[str, str]] = set()

    def nodes(depth: int) -> list[Any]:
        body: list[Any] = []
        for _ in range(draw(st.integers(1, 3))):
            name = f"n{next(number)}"
            kinds = ["right", *DEFECTS, *(["when", "loop", "switch"] * 4 if depth else [])]
            kind = draw(st.sampled_from(kinds))
            if kind == "right":
                body += [
                    give.bind(writes=f"{name}_v").with_(name=name),
                    take.bind(value=f"{name}_v").with_(name=f"{name}_t", after=name),
                ]
            elif kind == "when":
                body.append(when(True)[nodes(depth - 1)].otherwise[nodes(depth - 1)])
            elif kind == "loop":
                item = looks.bind(item=f"{name}.item").with_(name=f"{name}_i")
                body.append(loop(name, over=[1, 2])[item, nodes(depth - 1)])
            elif kind == "switch":
                body.append(switch("choice")[case(1)[nodes(depth - 1)], case(2)[idle]])
            else:
                made, code, where = DEFECTS[kind](name)
                body += made
                put.add((code, where))
        return body

    program = workflow("w")[nodes(2)]
    return lambda: program, put


@settings(max_examples=100, deadline=None)
@given(programs())
def test_random_defects_are_all_reported_and_nothing_else(made) -> None:
    program, put = made
    problems = find_problems(program(), {"choice": 1, "lines": []}, {})
    # In a loop the second iteration reads what the first has written too late.
    same = {"maybe-unwritten": "read-before-write"}
    found = {(same.get(p.code, p.code), p.path.rpartition("/")[2]) for p in problems}
    assert found == {(same.get(code, code), where) for code, where in put}
    assert all(problem.help for problem in problems)
    assert all(re.fullmatch(r".+test_all_at_once\.py:\d+", problem.source) for problem in problems)
