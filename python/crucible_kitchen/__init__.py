"""CrucibleKitchen: fine-tune language models through declared workflows and fused kernels.

Names load when they are first used, so that importing the package is cheap and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crucible_kitchen import errors

if TYPE_CHECKING:
    from crucible_kitchen import recipes, types
    from crucible_kitchen.bootstrap import arun, describe, plan, run, validate
    from crucible_kitchen.context import Context
    from crucible_kitchen.engine import Event, Every, Rng, RunResult, Seconds, attach_telemetry
    from crucible_kitchen.graph import (
        Plan,
        Retry,
        Stage,
        Workflow,
        async_loop,
        case,
        fan_out,
        loop,
        parallel,
        scope,
        stage,
        stream_loop,
        switch,
        when,
        workflow,
    )
    from crucible_kitchen.integrations import PatchReport, patch

__version__ = "0.1.0"

__all__ = [
    "Context",
    "Event",
    "Every",
    "PatchReport",
    "Plan",
    "Retry",
    "Rng",
    "RunResult",
    "Seconds",
    "Stage",
    "Workflow",
    "__version__",
    "arun",
    "async_loop",
    "attach_telemetry",
    "case",
    "describe",
    "errors",
    "fan_out",
    "loop",
    "parallel",
    "patch",
    "plan",
    "recipes",
    "run",
    "scope",
    "stage",
    "stream_loop",
    "switch",
    "types",
    "validate",
    "when",
    "workflow",
]

_MODULES = ("recipes", "types")
_HOMES = {
    "bootstrap": ("arun", "describe", "plan", "run", "validate"),
    "context": ("Context",),
    "engine": ("Event", "Every", "Rng", "RunResult", "Seconds", "attach_telemetry"),
    "integrations": ("PatchReport", "patch"),
    "graph": (
        "Plan",
        "Retry",
        "Stage",
        "Workflow",
        "async_loop",
        "case",
        "fan_out",
        "loop",
        "parallel",
        "scope",
        "stage",
        "stream_loop",
        "switch",
        "when",
        "workflow",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"crucible_kitchen.{name}")
    if name in _HOME_OF:
        value = getattr(import_module(f"crucible_kitchen.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(
        f"module 'crucible_kitchen' has no attribute {name!r}; {errors.did_you_mean(name, __all__)}"
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
