"""The whole runs of the recipes on a real model, and their curves.

    python -m crucible_kitchen.benchmarks.curves [RECIPE ...] [key=value ...] [--save FOLDER]

Each runs as `crucible run RECIPE` does, in a process of its own. With ``--save`` its curves are
written below the device's name, as numbers (``curve-<recipe>.json``) and drawn (``.svg``).
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import crucible_kitchen as ck
from crucible_kitchen import report

from .asked import asked
from .timing import machine, slug

METRICS: Final = (
    "loss",
    "eval_loss",
    "accuracy",
    "eval_accuracy",
    "margin",
    "eval_margin",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_bytes",
)


def whole_run(recipe: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Run a recipe to its end, as `crucible run` does.

    Returns:
        ``recipe``, ``given`` (what differs from its defaults), ``seconds`` and ``curves`` (of each
        metric its steps and values); and the picture of them, as SVG.
    """
    with tempfile.TemporaryDirectory(prefix="crucible-curves-") as folder:
        run_dir = Path(folder) / "run"
        result = ck.run(recipe, dict(given), run_dir=run_dir)
        run = report.read_run(run_dir)
        picture = report.picture(run)
    curves = {
        name: [[point.step, float(f"{point.value:.6g}")] for point in run.metric(name)]
        for name in METRICS
    }
    found = {
        "recipe": recipe,
        "given": dict(given),
        "seconds": round(result.duration_s, 1),
        "curves": {name: points for name, points in curves.items() if points},
    }
    return found, picture


def save(folder: Path, found: Mapping[str, Any], picture: str) -> Path:
    """Write the curves, with the machine and the versions they were taken with."""
    where = machine("cpu")
    target = folder / slug(where["device"])
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"curve-{found['recipe']}.json"
    curves = ",\n".join(
        f'  "{name}": {json.dumps(points)}' for name, points in found["curves"].items()
    )
    rest = {"machine": where, **{key: value for key, value in found.items() if key != "curves"}}
    text = json.dumps(rest, indent=1).removesuffix("\n}") + f',\n "curves": {{\n{curves}\n }}\n}}\n'
    path.write_text(text)
    path.with_suffix(".svg").write_text(picture)
    return path


def main(arguments: list[str] | None = None) -> None:
    """Run the recipes that were named, or all."""
    recipes, given, folder = asked(arguments, __doc__.splitlines()[0])
    spawn = multiprocessing.get_context("spawn")
    for recipe in recipes:
        with spawn.Pool(1, maxtasksperchild=1) as pool:
            found, picture = pool.apply(whole_run, (recipe, given))
        for name in ("eval_loss", "eval_accuracy"):
            if points := found["curves"].get(name):
                print(f"{recipe}  {name}  {points[0][1]:.3f} -> {points[-1][1]:.3f}")
        print(f"{recipe}  {found['seconds']:.0f} s in all")
        if folder is not None:
            print(f"written: {save(folder, found, picture)}")


if __name__ == "__main__":
    main()
