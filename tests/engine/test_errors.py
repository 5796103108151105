"""What a failure says, and what is tried again."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from crucible_kitchen.engine import run
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import Retry, loop, stage, when, workflow


@stage
def nothing() -> None: ...


@stage(writes="count")
def count_up(count: int = 0) -> int:
    return count + 1


def failing(error: BaseException, name: str = "boom") -> Any:
    def boom() -> None:
        raise error

    return stage(boom).with_(name=name)


def test_errors_carry_the_id_the_line_and_the_cause() -> None:
    error = KeyError("gone")
    boom = failing(error)
    value = workflow("sft")[loop("epochs", over=[0, 1])[loop("batches", over=[0])[count_up, boom]]]
    with pytest.raises(StageError) as caught:
        run(value)
    assert caught.value.stage == "sft/epochs[0]/batches[0]/boom"
    assert caught.value.__cause__ is error
    assert (
        str(caught.value)
        == f"sft/epochs[0]/batches[0]/boom ({boom.source}) failed with KeyError: 'gone'"
    )
    assert any("boom" in frame.name for frame in traceback.extract_tb(error.__traceback__))


def test_errors_of_predicates_and_iterables_name_their_block() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    with pytest.raises(StageError, match="OSError: disk") as caught:
        run(workflow("w")[loop("l", over=items)[nothing]])
    assert caught.value.stage == "w/l"
    with pytest.raises(StageError, match="ZeroDivisionError") as caught:
        run(workflow("w")[when(lambda: 1 / 0)[nothing]])
    assert caught.value.stage == "w/when"


def test_secrets_appear_nowhere_in_an_error() -> None:
    secret = "sk-1234567890"

    def cause() -> None:
        try:
            raise ValueError(f"inner {secret}")
        except ValueError as inner:
            raise RuntimeError(f"401 for {secret}") from inner

    with pytest.raises(StageError) as caught:
        run(
            workflow("w")[stage(cause)],
            {"model": "m", "hub": {"api_key": secret}},
        )
    text = "".join(traceback.format_exception(caught.value))
    assert secret not in text.replace(f'secret = "{secret}"', "")
    assert "401 for [hidden]" in text


def test_retries() -> None:
    tries: list[int] = []
    events: list[Any] = []

    def flaky() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("busy")

    run(workflow("w")[stage(flaky).with_(retry=3)], handlers=[events.append])
    assert len(tries) == 3
    assert [(e.attempt, e.error) for e in events if e.kind == "stage.retry"] == [
        (1, "ConnectionError: busy"),
        (2, "ConnectionError: busy"),
    ]
    tries.clear()
    with pytest.raises(StageError, match=r"busy \(attempt 2\)"):
        run(workflow("w")[stage(flaky).with_(retry=2)])
    tries.clear()
    with pytest.raises(StageError):
        run(workflow("w")[stage(flaky).with_(retry=Retry(3, on=KeyError))])
    assert len(tries) == 1


def test_a_wrong_result_is_not_tried_again() -> None:
    tries: list[int] = []

    @stage(writes="a", retry=3)
    def wrong() -> int:
        tries.append(1)
        return "x"  # type: ignore[return-value]

    with pytest.raises(StageError):
        run(workflow("w")[wrong])
    assert len(tries) == 1


def test_attempts_are_those_of_the_stage_that_failed() -> None:
    """Not of one before it that came through in the end."""
    left = [1, 0]

    def flaky() -> None:
        if left.pop(0):
            raise ValueError("not yet")

    def fail() -> None:
        raise ValueError("no")

    retry = Retry(3, backoff=0.0)
    with pytest.raises(StageError, match=r"ValueError: no$"):
        run(workflow("w")[stage(flaky).with_(retry=retry), stage(fail)])
