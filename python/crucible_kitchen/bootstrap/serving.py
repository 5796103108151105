"""Put a server together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crucible_kitchen.bootstrap.table import hub_of, load_adapter
from crucible_kitchen.serve import Kitchen, State


def open_kitchen(models: Sequence[str], state_dir: Path, **limits: int) -> Kitchen:
    """What serves models of this machine; to be closed by the caller, with its clients.

    Args:
        models: names or folders that clients may ask for.
        state_dir: where sessions, runs and checkpoints are kept.
        **limits: of `serve.Kitchen`.
    Raises:
        ConfigError: a model is not there.
        PortError: a hub cannot give it.
    """
    hub = load_adapter("hub_client", hub_of(models[0]))()
    state = State(state_dir)
    training = load_adapter("training_client", "local")(
        hub_client=hub, weights_dir=state_dir / "incoming"
    )
    sampling = load_adapter("sampling_client", "local")(hub_client=hub)
    return Kitchen(training, sampling, models, state, **limits)
