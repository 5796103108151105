"""Running: order, blocks, borders, errors, clean-up of ports."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Event, Rng, run
from crucible_kitchen.errors import CrucibleError, PortError, StageError, WorkflowError
from crucible_kitchen.graph import Stage, Workflow, loop, stage, when, workflow
from crucible_kitchen.ports import MetricsStore, Ports


class Store(MetricsStore):
    closed: list[str] = []  # noqa: RUF012 - shared on purpose: instances are made by the run

    def __init__(self, label: str = "store", fails: bool = False) -> None:
        self.label, self.fails = label, fails
        self.rows: list[Any] = []
        self.flushed = 0

    def record(
        self, run: Any, name: str, value: float, *, step: Any = None, metadata: Any = None
    ) -> None:
        self.rows.append((run, name, value, step))

    def flush(self, run: Any) -> None:
        self.flushed += 1

    def read(self, run: Any) -> list[Any]:
        return []

    def get_history(self, run: Any, name: str, **bounds: Any) -> list[Any]:
        return []

    def close(self) -> None:
        Store.closed.append(self.label)
        if self.fails:
            raise PortError("cannot close")


@pytest.fixture(autouse=True)
def _nothing_closed() -> None:
    Store.closed.clear()


@stage(writes="count")
def count_up(count: int = 0) -> int:
    return count + 1


@stage
def nothing() -> None: ...


def failing(error: BaseException, name: str = "boom") -> Any:
    def boom() -> None:
        raise error

    return stage(boom).with_(name=name)


def test_the_order_of_the_text_is_the_meaning() -> None:
    said: list[str] = []

    def say(text: str) -> Any:
        return stage(lambda: said.append(text)).with_(name=text)

    run(
        workflow("w")[
            say("a"),
            loop("l", over=range(2))[say("b"), when(lambda: len(said) > 2)[say("c")]],
            say("d"),
        ].finally_[say("e")]
    )
    assert said == ["a", "b", "b", "c", "d", "e"]


def test_loops_bind_their_item_and_index_only_inside() -> None:
    seen: list[Any] = []

    @stage
    def see(outer: str, inner: int, at: int) -> None:
        seen.append((outer, inner, at))

    bound = see.bind(outer="o.item", inner="i.item", at="i.index")
    result = run(
        workflow("w")[loop("o", over="names")[loop("i", over=[7, 8])[bound]]], {"names": "ab"}
    )
    assert seen == [("a", 7, 0), ("a", 8, 1), ("b", 7, 0), ("b", 8, 1)]
    assert len(result.context.state) == 0


def test_iterables_are_read_lazily_and_none_means_no_iteration() -> None:
    events: list[str] = []

    def items(n: int) -> Iterator[int]:
        for i in range(n):
            events.append(f"make {i}")
            yield i

    @stage
    def use(i: int) -> None:
        events.append(f"use {i}")

    body = workflow("w")[loop("l", over=items)[use.bind(i="l.item")]]
    run(body, {"n": 2})
    assert events == ["make 0", "use 0", "make 1", "use 1"]
    run(body, {"n": 0})
    assert len(events) == 4


def test_while_loops() -> None:
    small = loop("l", while_=lambda count=0: count < 3)[count_up]
    assert run(workflow("w")[small]).context.state.count == 3
    bounded = loop("l", while_=True, max_iterations=5)[count_up]
    assert run(workflow("w")[bounded]).context.state.count == 5
    assert "count" not in run(workflow("w")[loop("l", while_=False)[count_up]]).context.state


def test_a_loop_over_items_ends_early_where_its_predicate_no_longer_holds() -> None:
    def run_with(**options: Any) -> int | None:
        result = run(workflow("w")[loop("l", **options)[count_up]])
        return result.context.get_state("count")

    assert run_with(over=range(9), while_=lambda count=0: count < 3) == 3
    assert run_with(over=range(2), while_=lambda count=0: count < 3) == 2
    assert run_with(over=range(9), while_=False) is None
    assert run_with(over=range(9), max_iterations=4) == 4
    assert run_with(over=iter(range(9)), while_=True, max_iterations=10) == 9


def test_an_item_that_will_not_be_used_is_not_made() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(9):
            made.append(n)
            yield n

    run(workflow("w")[loop("l", over=items, while_=lambda count=0: count < 2)[count_up]])
    assert made == [0, 1]


def test_a_bounded_loop_tells_how_many_iterations_there_will_be_at_most() -> None:
    totals: list[int | None] = []

    def watch(event: Event) -> None:
        if event.kind == "block.start":
            totals.append(event.total)

    for options in (
        {"over": range(9), "while_": True},
        {"over": range(9), "max_iterations": 4},
        {"while_": lambda count=0: count < 2},
        {"over": iter("ab"), "while_": True},
    ):
        run(workflow("w")[loop("l", **options)[count_up]], handlers=[watch])
    assert totals == [9, 4, None, None]


def test_keys_and_literals_are_predicates() -> None:
    for predicate, wanted in (("flag", 1), (True, 1), (False, None), (lambda flag: not flag, None)):
        result = run(workflow("w")[when(predicate)[count_up]], {"flag": 1})
        assert result.context.get_state("count") == wanted, predicate


def test_config_is_read_after_state_and_defaults_last() -> None:
    seen: list[Any] = []

    @stage
    def look(a: int, b: int, c: int = 3, d: int = 4) -> None:
        seen.append((a, b, c, d))

    @stage(writes="a")
    def write_a() -> int:
        return 1

    run(workflow("w")[write_a, look, look.bind(b=20, c="a").with_(name="x")], {"b": 2, "d": 5})
    assert seen == [(1, 2, 3, 5), (1, 20, 1, 5)]


def test_everything_injected() -> None:
    seen: dict[str, Any] = {}

    @stage
    def look(
        ctx: Context,
        rng: Rng,
        *,
        log: logging.Logger,
        metrics: Metrics,
        metrics_store: MetricsStore,
        count: MetricsStore | None = None,
    ) -> None:
        metrics.record("loss", 1.0, step=3)
        seen.update(ctx=ctx, rng=rng, log=log, store=metrics_store, number=rng.random())

    store = Store()
    result = run(workflow("w")[count_up, look], {"a": 1}, {"metrics_store": store}, seed=7)
    assert seen["store"] is store
    assert seen["log"].name == "crucible_kitchen.run.w.look"
    assert seen["ctx"].current_stage == "w/look"
    assert seen["ctx"].state.count == 1
    run_id = result.context.metadata.run_id
    assert store.rows == [(run_id, "loss", 1.0, 3)]
    assert store.flushed == 1
    assert result.metrics.latest("loss") == 1.0


def test_random_numbers_depend_on_seed_and_path_alone() -> None:
    @stage(writes="x")
    def draw(x: tuple[float, ...] = (), *, rng: Rng) -> tuple[float, ...]:
        return (*x, rng.random())

    def numbers(seed: int, first: bool) -> tuple[float, ...]:
        body = [draw.with_(name="first")] if first else []
        value = workflow("w")[[*body, loop("l", over=[0, 1])[draw]]]
        result: tuple[float, ...] = run(value, seed=seed).context.state.x
        return result

    assert numbers(1, False) == numbers(1, True)[1:]
    assert numbers(1, False) != numbers(2, False)
    assert len(set(numbers(1, True))) == 3
    assert run(workflow("w")[draw], {"seed": 5}).context.state.x == numbers_of(5, "w/draw")


def numbers_of(seed: int, path: str) -> tuple[float, ...]:
    rng = Rng(seed, path)
    assert isinstance(rng, np.random.Generator)
    return (rng.random(),)


class Pair(NamedTuple):
    a: int
    b: str


class Other(NamedTuple):
    a: int
    b: str


@pytest.mark.parametrize(
    ("annotation", "writes", "value", "said"),
    [
        (Pair, None, Other(1, "x"), "must return Pair, got Other"),
        (Pair, None, (1, "x"), "must return Pair, got tuple"),
        (Pair, None, Pair(1, 2), "must write 'b' as str, got int"),  # type: ignore[arg-type]
        (int, "a", "text", "must write 'a' as int, got str"),
        (int, "a", None, "must write 'a' as int, got NoneType"),
        (None, None, 3, "declares no key to write, but returned int"),
        (tuple[int, str], ("a", "b"), (1,), "must return a tuple of 2, got tuple of 1"),
    ],
)
def test_a_stage_that_returns_something_else_fails_at_its_border(
    annotation: Any, writes: Any, value: Any, said: str
) -> None:
    def give() -> Any:
        return value

    give.__annotations__["return"] = annotation
    with pytest.raises(StageError, match=f"w/give .*{said}"):
        run(workflow("w")[stage(writes=writes)(give)])


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(float, 1), (float, np.float32(1)), (int, np.int64(1)), (int | None, None)],
)
def test_numbers_of_numpy_are_numbers(annotation: Any, value: Any) -> None:
    def give() -> Any:
        return value

    give.__annotations__["return"] = annotation
    assert run(workflow("w")[stage(writes="a")(give)]).context.state.a is value


class Keeps(Stage):
    writes = ("a",)
    put: dict[str, int]

    def execute(self, ctx: Context) -> Context:
        return ctx.merge_state(self.put)


class NoContext(Stage):
    def execute(self, ctx: Context) -> Context:
        return None  # type: ignore[return-value]


class Needs(Stage):
    reads = ("there",)

    def execute(self, ctx: Context) -> Context:
        return ctx


class PutsConfig(Stage):
    def execute(self, ctx: Context) -> Context:
        return ctx.put_state("epochs", 3)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Keeps(put={"a": 1, "b": 2}), "writes 'b', which it does not declare"),
        (Keeps(put={}), "declares that it writes 'a', but did not"),
        (NoContext(), "execute must return a Context, got NoneType"),
        (PutsConfig(), "writes 'epochs', which is a key of the config"),
    ],
)
def test_class_stages_are_checked_at_their_border(made: Stage, said: str) -> None:
    with pytest.raises(StageError, match=said):
        run(workflow("w")[made], {"epochs": 1})


def test_a_key_that_an_opaque_stage_did_not_write_is_named() -> None:
    @stage
    def read(losss: float) -> None: ...

    class Opaque(Stage):
        def execute(self, ctx: Context) -> Context:
            return ctx.put_state("loss", 1.0)

    with pytest.raises(StageError, match=r"reads 'losss', .*did you mean 'loss'"):
        run(workflow("w")[Opaque, read])
    with pytest.raises(StageError, match="reads 'there'"):
        run(workflow("w")[Opaque, Needs])


def test_class_stages_validate_execute_and_roll_back() -> None:
    calls: list[str] = []

    class Careful(Stage):
        depth: int = 3

        def validate(self, ctx: Context) -> None:  # type: ignore[override]
            calls.append(f"validate {ctx.stage_options.depth}")
            if "bad" in ctx.config:
                raise ValueError("bad config")

        def execute(self, ctx: Context) -> Context:
            calls.append("execute")
            raise RuntimeError("no")

        def rollback(self, ctx: Context, error: BaseException) -> Context:
            calls.append(f"rollback {error}")
            return ctx.put_state("undone", True)

    last: list[Context] = []
    with pytest.raises(StageError, match="RuntimeError: no"):
        run(workflow("w")[Careful(depth=4)], on_context=last.append)
    assert calls == ["validate 4", "execute", "rollback no"]
    assert last[0].state.undone
    with pytest.raises(StageError, match="bad config"):
        run(workflow("w")[Careful], {"bad": 1})
    assert calls[3:] == ["validate 3"]


def test_class_stages_record_metrics_and_metadata() -> None:
    class Records(Stage):
        def execute(self, ctx: Context) -> Context:
            return ctx.record_metric("loss", 2.0, step=1).put_metadata("note", "x")

    store = Store()
    result = run(workflow("w")[loop("l", over=[0, 1])[Records]], adapters={"metrics_store": store})
    assert [r.value for r in result.metrics.history("loss")] == [2.0, 2.0]
    assert len(store.rows) == 2
    assert result.context.metadata.note == "x"


class Guide(Workflow):
    body = [count_up, loop("epochs", over="rounds")[when("is_odd")[count_up]]]  # noqa: RUF012

    def rounds(self, ctx: Context) -> range:
        return range(ctx.config.epochs)

    def is_odd(self, ctx: Context) -> bool:
        return ctx.state["epochs.index"] % 2 == 1


def test_the_class_form_runs() -> None:
    assert run(Guide, {"epochs": 4}).context.state.count == 3


def test_adapters_made_by_the_run_are_closed_and_others_are_not() -> None:
    body = workflow("w")[nothing]
    run(body, adapters={"metrics_store": (Store, {"label": "made"})})
    assert Store.closed == ["made"]
    run(body, adapters={"metrics_store": Store("given")})
    run(body, adapters=Ports({"metrics_store": Store("bundle")}))
    assert Store.closed == ["made"]
    with pytest.raises(StageError):
        run(workflow("w")[failing(ValueError())], adapters={"metrics_store": Store})
    assert Store.closed == ["made", "store"]


def test_an_adapter_that_cannot_be_closed() -> None:
    adapters = {"metrics_store": (Store, {"fails": True})}
    with pytest.raises(PortError, match="cannot close"):
        run(workflow("w")[nothing], adapters=adapters)
    with (
        pytest.warns(RuntimeWarning, match="could not be closed"),
        pytest.raises(StageError, match="ValueError"),
    ):
        run(workflow("w")[failing(ValueError())], adapters=adapters)


def test_metrics_are_flushed_after_a_failure_too() -> None:
    class Full(Store):
        def flush(self, run: Any) -> None:
            raise PortError("disk full")

    store = Store()
    with pytest.raises(StageError):
        run(workflow("w")[failing(ValueError())], adapters={"metrics_store": store})
    assert store.flushed == 1
    with pytest.raises(PortError, match="disk full"):
        run(workflow("w")[nothing], adapters={"metrics_store": Full()})
    with pytest.warns(RuntimeWarning, match="disk full"), pytest.raises(StageError):
        run(workflow("w")[failing(ValueError())], adapters={"metrics_store": Full()})


def test_nothing_runs_where_the_workflow_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(WorkflowError):
        run(workflow("w")[count_up, 3], adapters={"metrics_store": Store}, run_dir=folder)
    assert not folder.exists()
    assert Store.closed == []


def test_the_result(tmp_path: Path) -> None:
    @stage(writes=("adapter_path", "report", "note"))
    def save() -> tuple[str, Path, str]:
        return "a/b", tmp_path / "report.html", "c"

    result = run(workflow("w")[save], {"x": 1}, run_dir=tmp_path / "run", metadata={"by": "me"})
    assert result.artifacts == {"adapter_path": "a/b", "report": str(tmp_path / "report.html")}
    assert result.run_dir == tmp_path / "run"
    assert result.run_dir.is_dir()
    assert result.duration_s > 0
    assert result.context.metadata.run_dir == str(tmp_path / "run")
    assert (result.context.metadata.workflow, result.context.metadata.by) == ("w", "me")
    assert result.context.put_state("a", 1).record_metric("m", 1.0).metrics.latest("m") == 1.0


def test_state_may_be_changed_by_later_runs_without_touching_earlier_results() -> None:
    first = run(workflow("w")[count_up])
    second = run(workflow("w")[count_up, count_up.with_(name="again")])
    assert (first.context.state.count, second.context.state.count) == (1, 2)


def test_a_run_inside_a_stage() -> None:
    inner = workflow("inner")[failing(ValueError("deep"))]

    @stage
    def outer() -> None:
        run(inner)

    with pytest.raises(StageError) as caught:
        run(workflow("w")[outer])
    assert caught.value.stage == "w/outer"
    assert isinstance(caught.value.__cause__, StageError)
    assert isinstance(caught.value, CrucibleError)


def test_run_works_inside_a_running_event_loop() -> None:
    @stage(writes="a")
    async def fetch() -> int:
        await asyncio.sleep(0)
        return 1

    async def main() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result: int = run(workflow("w")[fetch]).context.state.a
            return result

    assert asyncio.run(main()) == 1
