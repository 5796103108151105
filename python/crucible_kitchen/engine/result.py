"""`RunResult`: what a run gives."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from crucible_kitchen.context import Context, MetricLog


@dataclass(frozen=True)
class RunResult:
    """What a run gave.

    Args:
        context: at the end: state, configuration, metadata.
        metrics: everything recorded, in order.
        duration_s: of the whole run, clean-up included.
        run_dir: the run's folder, None where it has none.
    """

    context: Context
    metrics: MetricLog
    duration_s: float
    run_dir: Path | None

    @property
    def artifacts(self) -> dict[str, str]:
        """Files the run left behind: keys of the state that hold a path, or end in ``_path``."""
        return {
            key: os.fspath(value)
            for key, value in self.context.state.items()
            if isinstance(value, os.PathLike) or (key.endswith("_path") and isinstance(value, str))
        }
