"""Workflows are values: built by brackets, compared, reused, edited into new ones."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from pydantic import PositiveFloat

from crucible_kitchen.context import Context
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.graph import (
    Loop,
    Retry,
    Stage,
    When,
    Workflow,
    as_workflow,
    find_problems,
    loop,
    stage,
    when,
    workflow,
)
from crucible_kitchen.graph.stage import snake_case


@stage(writes="a")
def load() -> int:
    """Load it."""
    return 1


@stage
def use(a: int) -> None: ...


def is_big(a: int) -> bool:
    return a > 1


class Train(Stage):
    lr: PositiveFloat = 1.0

    def execute(self, ctx: Context) -> Context:
        return ctx.put_state("trained", self.lr)


def build() -> Workflow:
    return workflow("w")[
        load, loop("epochs", over=range(2))[when(is_big)[use].otherwise[Train(lr=2)]]
    ].finally_[use]


def test_equal_declarations_are_equal_and_hash_alike() -> None:
    assert build() == build()
    assert hash(build()) == hash(build())
    assert build() != build()[load]
    assert len({build(), build(), workflow("v")[load]}) == 2


def test_values_do_not_change() -> None:
    value = workflow("w")
    with pytest.raises(FrozenInstanceError):
        value.name = "v"  # type: ignore[misc]
    filled = value[load]
    assert value.body == ()
    assert filled.body == (load,)
    assert load.with_(name="other").name == "other"
    assert load.name == "load"


def test_a_block_can_be_used_in_two_workflows() -> None:
    check = when(is_big)[use]
    assert workflow("a")[load, check].body[1] == workflow("b")[load, check].body[1]


def test_a_stage_is_still_a_function() -> None:
    assert load() == 1
    assert load.__doc__ == "Load it."
    assert Train(lr=3).with_(name="x")(Context()).state.trained == 3


def test_lists_and_bodies_are_flattened() -> None:
    shared = workflow("shared")[load, use]
    assert workflow("w")[[load, (use,)]].body == (load, use)
    assert workflow("w")[shared.body, Train].body[:2] == (load, use)


def test_unnamed_branches_are_numbered() -> None:
    body = workflow("w")[
        load, when(is_big)[use], when(is_big)[use], when(True)[use], when(lambda a: a)[use]
    ].body
    assert [node.name for node in body] == ["load", "is_big", "is_big_2", "when", "when_2"]


def test_bind_changes_keys_read_and_written() -> None:
    bound = use.bind(a="epochs.item")
    assert [read.key for read in bound.reads] == ["epochs.item"]
    assert [write.key for write in load.bind(writes="b").writes] == ["b"]
    assert [write.key for write in load.bind(writes={"a": "c"}).writes] == ["c"]
    assert use.bind(a=3).reads == ()


def test_what_is_wrong_with_options_waits_for_validation() -> None:
    wrong = use.with_(nmae="x", retry=0, timeout=-1).bind(b="c", writes="d")
    assert [defect.code for defect in wrong.defects] == [
        "unknown-option",
        "bad-option",
        "bad-option",
        "unknown-option",
        "unknown-option",
    ]
    assert wrong.defects[0].help == "did you mean 'name'?"


@pytest.mark.parametrize("options", [{"attempts": 0}, {"attempts": 2, "backoff": -1.0}])
def test_retry_refuses_nonsense(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"Retry: .* must be"):
        Retry(**options)


def test_retry_waits_longer_each_time_up_to_its_limit() -> None:
    retry = Retry(9, backoff=0.5, max_backoff=3.0, jitter=0.1)
    assert [retry.wait(n, 0.0) for n in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert retry.wait(1, 1.0) == pytest.approx(0.55)


def test_class_stages_check_their_options() -> None:
    with pytest.raises(ConfigError, match=r"Train: no option 'lrr'; did you mean 'lr'"):
        Train(lrr=1)
    with pytest.raises(ConfigError, match=r"Train: lr: .*greater than 0") as caught:
        Train(lr=-12345.0)
    assert "12345" not in str(caught.value)


def test_class_names_become_paths() -> None:
    assert [snake_case(n) for n in ("TrainEpoch", "DPOStep", "Load2", "x")] == [
        "train_epoch",
        "dpo_step",
        "load2",
        "x",
    ]


class Guide(Workflow):
    body = [  # noqa: RUF012 - as users write it
        load,
        loop("epochs", over="epochs_range")[Train, when("should_eval")[use]],
        loop("rest", over="a_key")[use],
    ]
    finally_ = use

    def epochs_range(self, ctx: Context) -> range:
        return range(ctx.config.epochs)

    def should_eval(self, ctx: Context) -> bool:
        return ctx.state.trained > 0


def test_the_class_form_gives_the_same_values() -> None:
    value = as_workflow(Guide)
    assert type(value) is Workflow
    assert value.name == "guide"
    assert value == Guide("")
    epochs, rest = value.body[1], value.body[2]
    assert isinstance(epochs, Loop)
    assert isinstance(rest, Loop)
    assert epochs.over is not None
    assert epochs.over.of.__name__ == "epochs_range"
    assert rest.over is not None
    assert rest.over.of == "a_key"
    branch = epochs.body[1]
    assert isinstance(branch, When)
    assert branch.name == "should_eval"
    assert value.finally_body == (use,)


def test_only_workflows_are_workflows() -> None:
    with pytest.raises(TypeError, match="must be a workflow or a Workflow class, got 3"):
        as_workflow(3)


def test_sources_name_the_line() -> None:
    value = workflow("w")[loop("l", over=[1])[load]]
    line = test_sources_name_the_line.__code__.co_firstlineno + 1
    assert value.source.endswith(f"test_blocks.py:{line}")
    assert value.body[0].source.endswith(f"test_blocks.py:{line}")
    assert load.source.endswith(f"test_blocks.py:{load.call.__code__.co_firstlineno}")
    (node,) = workflow("w")[Train].body
    with open(__file__) as file:
        lines = file.read().splitlines()
    assert lines[int(node.source.rpartition(":")[2]) - 1].startswith("class Train")
    assert find_problems(value, {}) == []
