"""Put a server together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from crucible_kitchen.bootstrap.table import hub_of, load_adapter
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.serve import Kitchen, State

# Costs nothing and learns nothing: a server to try a program, or this server's own speed, on.
_DRY: Final = "noop"


def open_kitchen(models: Sequence[str], state_dir: Path, **limits: int) -> Kitchen:
    """What serves models of this machine; to be closed by the caller, with its clients.

    Args:
        models: names or folders that clients may ask for; ``noop`` alone: a server that answers as
            any does, without a model.
        state_dir: where sessions, runs and checkpoints are kept.
        **limits: of `serve.Kitchen`.
    Raises:
        ConfigError: a model is not there, or ``noop`` is not alone.
        PortError: a hub cannot give it.
    """
    weights_dir = state_dir / "incoming"
    if _DRY in models:
        if set(models) != {_DRY}:
            raise ConfigError(
                f"serve: the model noop must be served alone, got {', '.join(models)}"
            )
        dry = load_adapter("training_client", _DRY)(weights_dir=weights_dir)
        drawing = load_adapter("sampling_client", _DRY)()
        return Kitchen(dry, drawing, [_DRY], State(state_dir), contexts={}, **limits)
    hub = load_adapter("hub_client", hub_of(models[0]))()
    training = load_adapter("training_client", "local")(hub_client=hub, weights_dir=weights_dir)
    sampling = load_adapter("sampling_client", "local")(hub_client=hub, beside=training)
    lengths = {model: training.longest_sequence({"model": model}) for model in models}
    contexts = {model: length for model, length in lengths.items() if length is not None}
    return Kitchen(training, sampling, models, State(state_dir), contexts=contexts, **limits)
