"""How near `crucible plan` comes to what a run takes: both are done, and their parts compared.

    python -m crucible_kitchen.benchmarks.plan [RECIPE ...] [key=value ...] [--save FOLDER]

Each is a process of its own, as a user starts them. The seconds of a run are those of its stages.
With ``--save`` the figures are written below the device's name, as ``plan.json``.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import crucible_kitchen as ck
from crucible_kitchen import report

from .asked import asked
from .timing import machine, slug

_STEPS = {"max_steps": 20}
_PARTS = {
    "evaluate": ("evaluate", "evaluate_before", "evaluate_after"),
    "sample": ("sample_before", "sample_after", "score_samples_before", "score_samples_after"),
    "save": ("save_checkpoint", "save_adapter"),
    "reference": ("reference_logprobs",),
}
_EVALUATES = ("evaluate", "evaluate_pairs", "evaluate_scores")


def compare(recipe: str, config: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """Plan a run, run it, and say how far the plan was off.

    A short run before both fetches the model and converts it, so that neither of them has to.

    Args:
        cache: folder of a cache in which no answer of a reference is kept yet.
    Returns:
        ``planned`` and ``took``: seconds by part, their sum ``total`` and ``memory_bytes``; and
        ``ratio``, planned over taken, of both sums.
    """
    _, planned, took = (
        _apart(work, recipe, dict(config), str(cache)) for work in (_warm_up, _planned, _took)
    )
    ratio = {key: planned[key] / took[key] for key in ("total", "memory_bytes")}
    return {"recipe": recipe, "planned": planned, "took": took, "ratio": ratio}


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _warm_up(recipe: str, config: dict[str, Any], cache: str) -> None:
    _use(cache)
    one = {"max_steps": 1, "batch_size": 1, "eval_rows": 0, "samples": 0}
    given = {**one, **({"model": config["model"]} if "model" in config else {})}
    with tempfile.TemporaryDirectory(prefix="crucible-plan-") as folder:
        ck.run("sft", given, run_dir=folder, handlers=())


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


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each recipe that was named, or for all."""
    recipes, given, folder = asked(arguments, __doc__.splitlines()[0])
    config = {**_STEPS, **given}
    figures = []
    with tempfile.TemporaryDirectory(prefix="crucible-cache-") as cache:
        for recipe in recipes:
            figures.append(compare(recipe, config, Path(cache)))
            _print(figures[-1])
    if folder is not None:
        where = machine("cpu")
        path = folder / slug(where["device"]) / "plan.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": where, "config": config, "figures": figures}, indent=1)
        path.write_text(text + "\n")
        print(f"written: {path}")


def _print(found: Mapping[str, Any]) -> None:
    print(f"\n{found['recipe']:10} {'planned':>10} {'took':>10} {'ratio':>7}")
    for part, took in found["took"].items():
        planned, unit = found["planned"].get(part, 0.0), 1e9 if part == "memory_bytes" else 1.0
        ratio = f"{planned / took:7.2f}" if took else ""
        print(f"{part:10.10} {planned / unit:10.2f} {took / unit:10.2f} {ratio}", flush=True)


if __name__ == "__main__":
    main()
