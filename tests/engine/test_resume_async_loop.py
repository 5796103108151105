"""An `async_loop` goes on in its iteration: no item is lost, none is used twice."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from collections import Counter
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters import noop
from crucible_kitchen.context import Metrics
from crucible_kitchen.engine import Event, Every, Rng, run
from crucible_kitchen.engine.journal import read_journal
from crucible_kitchen.errors import StageError, WorkflowError
from crucible_kitchen.graph import async_loop, find_problems, stage, workflow
from crucible_kitchen.ports import SamplingClient, Session

LAST = 12


def make(*, rng: Rng, metrics: Metrics) -> int:
    time.sleep(3e-4)
    number = int(rng.integers(1000))
    metrics.record("made", number)
    return number


@stage(writes="seen")
def use(item: int, seen: tuple[int, ...] = ()) -> tuple[int, ...]:
    time.sleep(3e-4)
    return (*seen, item)


@stage(writes="count")
def count(count: int = 0) -> int:
    return count + 1


FLOW = workflow("w")[
    async_loop("l", producer=make, stop_when=lambda count=0: count == LAST, buffer=3)[
        use.bind(item="l.item"), count
    ]
]


class Noting:
    """Writes down which stages began, and kills the process as the n-th of them does."""

    def __init__(self, folder: Path, left: int | None = None) -> None:
        self._file = os.open(folder / "begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._left = left

    def __call__(self, event: Event) -> None:
        if event.kind == "stage.start":
            os.write(self._file, f"{event.path}\n".encode())
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    def close(self) -> None:
        os.close(self._file)


def killed(folder: Path, number: int, checkpoint: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        try:
            handlers = ["jsonl", Noting(folder, number)]
            run(FLOW, run_dir=folder, handlers=handlers, checkpoint=checkpoint)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("checkpoint", ["stage", Every(5, False)], ids=str)
def test_killed_anywhere_it_uses_each_item_once(checkpoint: Any, tmp_path: Path) -> None:
    wanted = run(FLOW)
    kept_ahead = 0
    for number in range(4, 34, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        killed(folder, number, checkpoint)
        before = (folder / "begun").read_text().split()
        main = read_journal(folder).main
        made = dict(main.made()).get("w/l", {})
        kept_ahead += len(made) > 1
        result = run(FLOW, run_dir=folder, handlers=["jsonl", Noting(folder)], resume=True)
        assert result.context.state.seen == wanted.context.state.seen
        assert [r.value for r in result.metrics] == [r.value for r in wanted.metrics]
        again = (folder / "begun").read_text().split()[len(before) :]
        assert not {f"w/l[{n}]/producer" for n in made} & set(again)
        index = main.index_in("w/l") if main.at else -1
        assert not [at for at in again if at.endswith("/use") and _number(at) < index]
        if checkpoint == "stage" and main.at:  # two of the body and an item were under way
            assert sum(number > 1 for number in Counter([*before, *again]).values()) <= 3
        told = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        paths = Counter((event["kind"], event["path"]) for event in told)
        assert {(kind, at): n for (kind, at), n in paths.items() if n > 1} == {}
    assert kept_ahead


def _number(at: str) -> int:
    return int(at.partition("[")[2].partition("]")[0])


def test_it_is_made_from_whole_iterations_only_after_a_resume_too(tmp_path: Path) -> None:
    """Stopped between two stages, the producer waits until the iteration is over."""
    failing = [True]

    def produce(first: int = 0, second: int = 0) -> tuple[int, int]:
        return first, second

    @stage(writes="first")
    def one(first: int = 0) -> int:
        return first + 1

    @stage(writes="second")
    def other(pair: Any, second: int = 0) -> int:
        assert pair[0] == pair[1]
        if second == 2 and failing.pop():
            failing.append(False)
            raise ValueError
        time.sleep(0.01)
        return second + 1

    value = workflow("w")[
        async_loop("l", producer=produce, stop_when=lambda second=0: second == 6)[
            one, other.bind(pair="l.item")
        ]
    ]
    with pytest.raises(StageError):
        run(value, run_dir=tmp_path, checkpoint="stage", max_concurrency=1)
    assert read_journal(tmp_path).main.at == "w/l[2]/one"
    result = run(value, run_dir=tmp_path, resume=True, max_concurrency=1)
    assert dict(result.context.state) == {"first": 6, "second": 6}


def test_a_producer_that_ends_the_loop_ends_it_after_a_resume_too(tmp_path: Path) -> None:
    failing = [True]

    def produce(total: int = 0) -> int:
        if total >= 5:
            raise StopIteration
        return 1

    @stage(writes="total")
    def add(item: int, total: int = 0) -> int:
        if total == 3 and failing:
            failing.clear()
            raise ValueError
        return total + item

    value = workflow("w")[
        async_loop("l", producer=produce, stop_when=None, max_staleness=0)[add.bind(item="l.item")]
    ]
    with pytest.raises(StageError):
        run(value, run_dir=tmp_path, checkpoint="stage")
    assert run(value, run_dir=tmp_path, resume=True).context.state.total == 5


def test_an_item_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    value = workflow("w")[
        async_loop("l", producer=lambda: lambda: 1, stop_when=lambda count=0: count == 3)[
            use.bind(item=1), count
        ]
    ]
    assert run(value).context.state["count"] == 3
    said = "the producer of w/l gives an item, which cannot be kept for a resume"
    with pytest.raises(StageError, match=said):
        run(value, run_dir=tmp_path, checkpoint="stage")


def test_an_item_whose_type_says_that_it_cannot_be_kept_is_found_before(tmp_path: Path) -> None:
    def opened() -> TextIOWrapper:
        raise AssertionError("nothing may run")

    value = workflow("w")[
        async_loop("l", producer=opened, stop_when=lambda count=0: count == 3)[
            use.bind(item="l.item"), count
        ]
    ]
    assert find_problems(value) == []
    with pytest.raises(WorkflowError) as refused:
        run(value, run_dir=tmp_path, checkpoint="stage")
    (problem,) = refused.value.problems
    assert (problem.code, problem.path) == ("cannot-checkpoint", "w/l/producer")
    assert problem.message == "gives 'l.item' as TextIOWrapper, which no checkpoint can keep"
    assert problem.source.startswith(__file__)


def test_a_producer_with_a_sampler_of_its_own_goes_on(tmp_path: Path) -> None:
    """Sampling changes no session, so that its items are written down as they are made."""
    failing = [True]

    @stage(writes="sampler")
    def start(*, sampling_client: SamplingClient) -> Session:
        return sampling_client.start_session({"model": "noop"})

    def sample(sampler: Session, *, sampling_client: SamplingClient) -> list[int]:
        params = {"max_tokens": 3, "seed": 1}
        return list(sampling_client.sample(sampler, [1, 2], 1, params).result()[0].tokens)

    @stage(writes="tokens")
    def add(item: list[int], tokens: list[int] = []) -> list[int]:  # noqa: B006 - not changed
        if len(tokens) == 6 and failing:
            failing.clear()
            raise ValueError
        return tokens + item

    value = workflow("w")[
        start,
        async_loop("l", producer=sample, stop_when=lambda tokens=(): len(tokens) >= 12)[
            add.bind(item="l.item")
        ],
    ]
    adapters = {"sampling_client": noop.SamplingClient}
    with pytest.raises(StageError):
        run(value, adapters=adapters, run_dir=tmp_path, checkpoint="stage")
    saved = read_journal(tmp_path).main
    assert saved.at == "w/l[1]/add"
    assert any(saved.made())
    result = run(value, adapters=adapters, run_dir=tmp_path, resume=True)
    assert len(result.context.state.tokens) == 12
