"""How near `crucible plan` comes to what a run takes: both are done, and their parts compared.

    python benchmarks/plan.py [RECIPE ...] [key=value ...]

Each is a process of its own, as a user starts them. The seconds of a run are those of its stages.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import crucible_kitchen as ck
from crucible_kitchen import report
from crucible_kitchen.recipes import RECIPES, parse

_STEPS = {"max_steps": 20}
_PARTS = {
    "evaluate": ("evaluate", "evaluate_before", "evaluate_after"),
    "sample": ("sample_before", "sample_after", "score_before", "score_after"),
    "save": ("save_checkpoint", "save_adapter"),
    "reference": ("reference_logprobs",),
}
_EVALUATES = ("evaluate", "evaluate_pairs", "evaluate_scores")


def compare(recipe: str, config: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """Plan a run, run it, and say how far the plan was off.

    Args:
        cache: folder of a cache in which no answer of a reference is kept yet.
    Returns:
        ``planned`` and ``took``: seconds by part, their sum ``total`` and ``memory_bytes``; and
        ``ratio``, planned over taken, of both sums.
    """
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, maxtasksperchild=1) as pool:
        planned, took = (
            pool.apply(work, (recipe, dict(config), str(cache))) for work in (_planned, _took)
        )
    ratio = {key: planned[key] / took[key] for key in ("total", "memory_bytes")}
    return {"recipe": recipe, "planned": planned, "took": took, "ratio": ratio}


def _planned(recipe: str, config: dict[str, Any], cache: str) -> dict[str, float]:
    _use(cache)
    estimate = ck.plan(recipe, config, calibrate=True).estimate
    assert estimate is not None  # it was asked for
    memory = estimate.memory_bytes
    return {**estimate.seconds, "total": estimate.total_s, "memory_bytes": memory}


def _took(recipe: str, config: dict[str, Any], cache: str) -> dict[str, float]:
    _use(cache)
    with tempfile.TemporaryDirectory(prefix="crucible-plan-") as folder:
        run_dir = Path(folder) / "run"
        result = ck.run(recipe, config, run_dir=run_dir, handlers=())
        seconds = parts(run_dir)
    memory = result.metrics.latest("memory_bytes")
    return {**seconds, "total": result.duration_s, "memory_bytes": memory}


def _use(cache: str) -> None:
    import os

    os.environ["CRUCIBLE_CACHE"] = cache


def parts(run_dir: Path) -> dict[str, float]:
    """Seconds of a run's stages, under the names that a plan has for them."""
    seconds = dict.fromkeys(("set up", "train", *_PARTS), 0.0)
    for line in (run_dir / report.EVENTS).read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "stage.stop":
            seconds[_part(event["path"])] += event["duration_s"]
    return seconds


def _part(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    if name in _EVALUATES:
        return "evaluate"
    named = (part for part, names in _PARTS.items() if name in names)
    return next(named, "train" if "/batches[" in path else "set up")


def main(arguments: list[str]) -> None:
    """Print a table for each recipe that was named, or for all."""
    recipes = [one for one in arguments if "=" not in one] or list(RECIPES)
    pairs = (one.split("=", 1) for one in arguments if "=" in one)
    config = {**_STEPS, **{key: parse(value, key) for key, value in pairs}}
    for recipe in recipes:
        with tempfile.TemporaryDirectory(prefix="crucible-cache-") as cache:
            found = compare(recipe, config, Path(cache))
        print(f"\n{recipe:10} {'planned':>10} {'took':>10} {'ratio':>7}")
        for part, took in found["took"].items():
            planned, unit = found["planned"].get(part, 0.0), 1e9 if part == "memory_bytes" else 1.0
            ratio = f"{planned / took:7.2f}" if took else ""
            print(f"{part:10.10} {planned / unit:10.2f} {took / unit:10.2f} {ratio}")


if __name__ == "__main__":
    main(sys.argv[1:])
