"""How long a run will take and how much memory it needs, from a few real steps of it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, Final

from crucible_kitchen import engine
from crucible_kitchen.engine import Event
from crucible_kitchen.graph import Estimate, Workflow, loop, workflow
from crucible_kitchen.ports import Ports
from crucible_kitchen.stages import (
    assemble,
    choose_probes,
    close_session,
    evaluate,
    forward_backward,
    init_session,
    load_data,
    optim_step,
    order_batches,
    prepare,
    prepare_held_out,
    resolve_model,
    sample,
    save_adapter,
    save_checkpoint,
)
from crucible_kitchen.stages._memory import memory_used

_SETUP: Final = ("load_data", "resolve_model", "init_session", "prepare", "prepare_held_out")

sft_calibration = workflow("calibration")[
    load_data,
    resolve_model,
    init_session,
    prepare,
    prepare_held_out,
    order_batches.bind(epoch=0),
    choose_probes,
    loop("batches", over="probe_batches")[
        assemble.bind(batch="batches.item"),
        loop("micro", over="micro_batches")[forward_backward.bind(micro_batch="micro.item")],
        optim_step,
    ],
    evaluate.bind(eval_datums="probe_datums"),
    sample.bind(samples=1),
    save_checkpoint,
    save_adapter,
].finally_[close_session]
"""The parts of `sft`, each run as often as it takes to know how long it takes."""


def measure(calibration: Workflow, config: Any, adapters: Mapping[str, Any] | Ports) -> Estimate:
    """Run a recipe's calibration and reckon what the recipe will take.

    Args:
        calibration: of the recipe; what it saves goes to a folder that is removed.
        config: the recipe's, checked.
        adapters: as for a run.
    Raises:
        StageError: a stage failed, as it would in the run.
    """
    events: list[Event] = []
    # A calibration leaves nothing behind, and its metrics are nobody's.
    used = {port: adapters[port] for port in adapters if port != "metrics_store"}
    with tempfile.TemporaryDirectory(prefix="crucible-calibration-") as folder:
        result = engine.run(calibration, config, used, handlers=[events.append], run_dir=folder)
    state, spent = result.context.state, _Spent(events)
    steps, tokens = state.total_steps, state.total_steps * state.tokens_per_step
    probes = [record.value for record in result.metrics.history("tokens")]
    first, *others = [spent.inside(f"batches[{number}]") for number in range(len(probes))]
    per_token = sum(others) / sum(probes[1:])
    each_eval = spent.of("evaluate") * _ratio(state.eval_tokens, state.probe_datums)
    evaluations = 2 + (math.ceil(steps / config.eval_every) - 1 if config.eval_every else 0)
    saves = steps // config.save_every if config.save_every else 0
    samples = 2 * min(config.samples, len(state.held_out_rows))
    return Estimate(
        steps=steps,
        tokens=round(tokens),
        seconds={
            "set up": sum(map(spent.of, _SETUP)),
            "train": tokens * per_token + max(0.0, first - probes[0] * per_token),
            "evaluate": evaluations * each_eval,
            "sample": samples * spent.of("sample"),
            "save": saves * spent.of("save_checkpoint") + spent.of("save_adapter"),
        },
        memory_bytes=memory_used(),
        measured_steps=len(probes),
    )


def _ratio(tokens: int, measured: Iterable[Any]) -> float:
    """How many times as many tokens there are as were measured."""
    seen = sum(datum.model_input.length for datum in measured)
    return tokens / seen if seen else 0.0


class _Spent:
    """Seconds of stages, from the events of a run."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._stages = [
            (event.path, event.duration_s or 0.0) for event in events if event.kind == "stage.stop"
        ]

    def of(self, name: str) -> float:
        """Of the stages of that name, wherever they stand."""
        return sum(spent for path, spent in self._stages if path.endswith(f"/{name}"))

    def inside(self, iteration: str) -> float:
        """Of all that ran in one iteration of a loop."""
        return sum(spent for path, spent in self._stages if f"/{iteration}/" in path)
