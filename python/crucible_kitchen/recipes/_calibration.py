"""How long a run will take and how much memory it needs, from a few real steps of it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from crucible_kitchen import engine
from crucible_kitchen.data import size_of
from crucible_kitchen.engine import Event
from crucible_kitchen.graph import Estimate, Workflow
from crucible_kitchen.ports import Ports
from crucible_kitchen.stages._memory import memory_used
from crucible_kitchen.workflows import SHOWN

_SETUP: Final = (
    "load_data",
    "resolve_model",
    "init_session",
    "resolve_reference",
    "prepare",
    "prepare_pairs",
    "prepare_held_out",
    "prepare_held_out_pairs",
)


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
    per_eval = spent.of("evaluate") / max(1, sum(map(size_of, state.probe_datums)))
    # A model that is its own reference is asked as such, and not again before the first step.
    before = "reference_path" not in state or state.reference_path is not None
    between = math.ceil(steps / config.eval_every) - 1 if config.eval_every else 0
    saves = steps // config.save_every if config.save_every else 0
    held_out = len(state.held_out_rows)
    shown = min(config.samples, held_out) / max(1, min(SHOWN, held_out))
    asked = state.get("reference_tokens", 0)
    loads = asked > 0 and state.get("reference_path") is not None
    seconds = {
        "set up": sum(map(spent.of, _SETUP)),
        "train": tokens * per_token + max(0.0, first - probes[0] * per_token),
        "evaluate": (before + between + 1) * state.eval_tokens * per_eval,
        "sample": shown * spent.of("show") * (1 + _trained_share(state.shown)),
        "save": saves * spent.of("save_checkpoint") + spent.of("save_adapter"),
    }
    if asked:
        seconds["reference"] = asked * per_eval + loads * spent.of("init_session")
    return Estimate(
        steps=steps,
        tokens=round(tokens),
        seconds=seconds,
        memory_bytes=memory_used(),
        measured_steps=len(probes),
    )


def _trained_share(shown: Sequence[Any]) -> float:
    """How long a trained model's answers are beside those shown: as long as the rows' own."""
    texts = [answer for answer in shown if isinstance(answer, Mapping)]  # and no scores
    said = sum(len(answer["text"]) for answer in texts)
    return min(1.0, sum(len(answer["wanted"]) for answer in texts) / said) if said else 1.0


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
