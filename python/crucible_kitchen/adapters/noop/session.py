"""What the noop clients keep of a session, in memory and in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from crucible_kitchen import ports
from crucible_kitchen.adapters.disk import speaking_our_errors, write_atomically
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import SessionConfig

from .scores import ScoreHead

_FILE: Final = "noop_checkpoint.json"


class NoopSession(ports.Session):
    """What the client keeps of a session; only its worker thread changes it."""

    def __init__(self, id: str, config: SessionConfig) -> None:  # noqa: A002 - a session's id
        super().__init__(id, config)
        self.steps = 0
        self.learned = 0
        self.gradients = 0.0
        self.closed = False
        self.scores = ScoreHead()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, without gradients."""
        self.steps, self.learned, self.gradients = state["steps"], state["learned"], 0.0
        self.scores.clear()
        if "scores" in state:
            self.scores.weights = np.asarray(state["scores"])

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        state: dict[str, Any] = {"steps": self.steps, "learned": self.learned}
        if self.config.head == "scalar":
            state["scores"] = self.scores.weights.tolist()
        return state


def write_checkpoint(path: str, state: Mapping[str, Any]) -> None:
    """Put a state in a folder, for `read_checkpoint`."""
    with speaking_our_errors("training_client", f"save {path}"):
        write_atomically(Path(path) / _FILE, json.dumps(state).encode())


def read_checkpoint(path: str, port: str) -> dict[str, Any]:
    """The state in a folder that `save_checkpoint` wrote.

    Raises:
        PortError: there is none, or it is damaged; `port` says for whom.
    """
    with speaking_our_errors(port, f"load checkpoint {path}"):
        text = (Path(path) / _FILE).read_bytes()
    try:
        state = json.loads(text)
        counts = {name: int(state[name]) for name in ("steps", "learned")}
        scores = {"scores": [float(x) for x in state["scores"]]} if "scores" in state else {}
        return {**counts, **scores}
    except (ValueError, TypeError, KeyError) as error:
        raise PortError(f"{port}: checkpoint {path} is damaged: {error}") from error
