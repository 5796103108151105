"""Runs workflows: `run`, `arun`, events and those who listen to them."""

from .checkpoint import Every, Policy, Seconds
from .events import Emitter, Event, Handler
from .rng import Rng
from .run import RunResult, arun, run
from .spin import RecordInputs, spin
from .stepping import Pause, steps
from .telemetry import Attachment, attach_telemetry

__all__ = [
    "Attachment",
    "Emitter",
    "Event",
    "Every",
    "Handler",
    "Pause",
    "Policy",
    "RecordInputs",
    "Rng",
    "RunResult",
    "Seconds",
    "arun",
    "attach_telemetry",
    "run",
    "spin",
    "steps",
]
