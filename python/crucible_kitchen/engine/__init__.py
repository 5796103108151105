"""Runs workflows: `run`, `arun`, events and those who listen to them."""

from .events import Emitter, Event, Handler
from .rng import Rng
from .run import RunResult, arun, run

__all__ = ["Emitter", "Event", "Handler", "Rng", "RunResult", "arun", "run"]
