"""Keep the answers from before and after the training, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crucible_kitchen.context import Context
from crucible_kitchen.graph import stage

from ._folder import run_folder, write_json


@stage(writes="samples_path")
def save_samples(
    samples_before: Sequence[Mapping[str, Any]],
    samples_after: Sequence[Mapping[str, Any]],
    *,
    ctx: Context,
) -> str | None:
    """Write ``samples.json`` into the run's folder; None where there is no folder.

    Raises:
        CrucibleError: it cannot be written.
    """
    folder = run_folder(ctx)
    if folder is None:
        return None
    rows = [
        {"messages": b["messages"], "wanted": b["wanted"], "before": b["text"], "after": a["text"]}
        for b, a in zip(samples_before, samples_after, strict=True)
    ]
    path = folder / "samples.json"
    write_json(path, rows)
    return str(path)
