"""Runs workflows: `run`, `arun`, events and those who listen to them.

`Rng` loads when it is first used: it needs numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .checkpoint import Every, Policy, Seconds
from .events import Emitter, Event, Handler
from .result import RunResult
from .run import arun, run
from .spin import RecordInputs, spin
from .stepping import Pause, steps
from .telemetry import Attachment, attach_telemetry

if TYPE_CHECKING:
    from .rng import Rng

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


def __getattr__(name: str) -> Any:
    if name == "Rng":
        from .rng import Rng

        globals()[name] = Rng
        return Rng
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
