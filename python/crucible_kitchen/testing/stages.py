"""`run_stage`: one stage, or one block, as a run runs it, on a state that a test writes down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crucible_kitchen.context import Context, MetricLog
from crucible_kitchen.engine import Event, run
from crucible_kitchen.graph import stage, workflow


@dataclass(frozen=True)
class StageRun:
    """What a stage gave.

    Args:
        written: keys it wrote, and their values.
        metrics: what it recorded.
        context: at the end.
        events: what was told, in order.
    """

    written: dict[str, Any]
    metrics: MetricLog
    context: Context
    events: tuple[Event, ...]

    def __getitem__(self, key: str) -> Any:
        if key not in self.written:
            known = ", ".join(map(repr, self.written)) or "nothing"
            raise KeyError(f"{key!r} was not written; written was {known}")
        return self.written[key]


def run_stage(
    stage_or_block: Any,
    state: Mapping[str, Any] | None = None,
    adapters: Mapping[str, Any] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    check_inputs: bool = True,
) -> StageRun:
    """Run one stage alone: checked before, retried, timed out and checked after as in any run.

    Args:
        stage_or_block: a stage, a `Stage` class, or a block with what is in it.
        state: keys that it finds written.
        adapters: port name -> adapter, such as a `FakePort`.
        config: keys of the configuration.
        seed: of `Rng`.
        check_inputs: whether it fails where it changes what it reads.
    Raises:
        WorkflowError: it cannot run on this state and these adapters.
        StageError: it failed; its `__cause__` is the stage's own exception.
    """
    given = dict(state or {})
    body = []
    if given:
        values: Any = tuple(given.values())
        if len(given) == 1:  # one key takes the value itself
            (values,) = values
        write = stage(writes=tuple(given))(lambda: values)
        body.append(write.with_(name="given_state"))
    events: list[Event] = []
    result = run(
        workflow("test")[[*body, stage_or_block]],
        config,
        adapters,
        seed=seed,
        handlers=[events.append],
        check_inputs=check_inputs,
    )
    now = result.context.state
    written = {
        key: value for key, value in now.items() if key not in given or value is not given[key]
    }
    own = tuple(event for event in events if event.path != "test/given_state")
    return StageRun(written, result.metrics, result.context, own)
