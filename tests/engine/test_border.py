"""A stage that gives something else than it declares, or changes what it reads, fails itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest

from crucible_kitchen.context import Context
from crucible_kitchen.engine import run
from crucible_kitchen.engine.checked import fingerprint
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import Stage, stage, workflow


class Pair(NamedTuple):
    left: int
    right: str


def number() -> int:
    return "text"  # type: ignore[return-value]


def nothing() -> None:
    return 1  # type: ignore[return-value]


def pair() -> Pair:
    return Pair(1, 2)  # type: ignore[arg-type]


def short() -> Any:
    return (1,)


class Writes(Stage):
    writes = ("a",)
    key: str = "b"

    def execute(self, ctx: Context) -> Context:
        return ctx.put_state(self.key, 1)


CASES: list[tuple[Any, str]] = [
    (stage(writes="x")(number), "must write 'x' as int, got str"),
    (stage(nothing), "declares no key to write, but returned int"),
    (stage(pair), "must write 'right' as str, got int"),
    (stage(writes=("a", "b"))(short), "must return a tuple of 2, got tuple of 1"),
    (Writes, "writes 'b', which it does not declare; declared: ['a']"),
    (Writes(key="config_key"), "writes 'config_key', which is a key of the config"),
]


@pytest.mark.parametrize(("node", "message"), CASES)
def test_what_it_gives_is_what_it_declares(node: Any, message: str) -> None:
    with pytest.raises(StageError) as caught:
        run(workflow("w")[node], {"config_key": 1})
    assert message in str(caught.value)
    assert caught.value.stage.startswith("w/")


@dataclass
class Row:
    tokens: list[int] = field(default_factory=list)


def change_nested(rows: dict[str, Any]) -> None:
    rows["deep"][0].append(1)


CHANGES: list[tuple[Any, Callable[[Any], object]]] = [
    ([1], lambda value: value.append(2)),
    ([3, 1], lambda value: value.sort()),
    ({"deep": [[0]]}, change_nested),
    ({"a": 1}, lambda value: value.pop("a")),
    ({1, 2}, lambda value: value.discard(1)),
    (bytearray(b"ab"), lambda value: value.extend(b"c")),
    (np.zeros(3), lambda value: value.__setitem__(1, 2.0)),
    (Row([1]), lambda value: value.tokens.append(2)),
    ([Row([1])], lambda value: value[0].tokens.append(2)),
]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("value", "change"), CHANGES)
def test_a_change_of_an_input_is_refused(
    value: Any, change: Callable[[Any], object], kind: str
) -> None:
    import copy

    def spoil(rows: Any) -> None:
        change(rows)

    async def spoil_async(rows: Any) -> None:
        change(rows)

    given = copy.deepcopy(value)
    give = stage(writes="rows")(lambda: given).with_(name="give")
    node = stage(spoil if kind == "sync" else spoil_async).with_(name="spoil")
    with pytest.raises(StageError, match="changed its input 'rows' in place") as caught:
        run(workflow("w")[give, node], check_inputs=True)
    assert caught.value.stage == "w/spoil"
    given = copy.deepcopy(value)
    run(workflow("w")[give, node])  # unless asked for, nobody looks


def test_tensors_are_watched_too() -> None:
    torch = pytest.importorskip("torch")
    give = stage(writes="x")(lambda: torch.zeros(2)).with_(name="give")
    look = stage(writes="y")(lambda x: x + 1).with_(name="look")
    run(workflow("w")[give, look], check_inputs=True)
    with pytest.raises(StageError):
        run(workflow("w")[give, stage(_add_in_place)], check_inputs=True)


def _add_in_place(x: Any) -> None:
    x.add_(1)


def test_what_may_change_may() -> None:
    class Session:
        steps = 0

    def use(session: Session, rows: list[float]) -> None:
        session.steps += 1
        sorted(rows)

    session = Session()
    loop_in_itself: list[Any] = [float("nan")]
    loop_in_itself.append(loop_in_itself)
    give = stage(writes=("session", "rows"))(lambda: (session, loop_in_itself))
    node = stage(lambda session, rows: use(session, rows[:1])).with_(name="use")
    run(workflow("w")[give.with_(name="give"), node], check_inputs=True)
    assert session.steps == 1


def test_a_fingerprint_is_quick() -> None:
    rows = [{"tokens": list(range(10))} for _ in range(1000)]
    began = time.process_time()
    assert fingerprint(rows) == fingerprint(rows)
    assert time.process_time() - began < 1.0
