"""A recipe's whole run in bfloat16 beside the same in float32: how far apart their losses are.

    python -m crucible_kitchen.benchmarks.dtypes [RECIPE ...] [key=value ...] [--save FOLDER]

Both have the same seed, so each step has the same rows in both. With ``--save`` both curves are
written below the device's name, as ``dtypes-<recipe>.json``.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .asked import asked
from .curves import whole_run
from .timing import machine, slug

DTYPES: Final = ("float32", "bfloat16")
LOSSES: Final = ("loss", "eval_loss")


def beside(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Two runs, as `curves.whole_run` gives them, by dtype.

    Returns:
        ``recipe``; ``given`` to both; ``apart`` by metric, see there; ``curves`` by metric and
        dtype, steps and values.
    """
    first = runs[DTYPES[0]]
    names = [name for name in LOSSES if name in first["curves"]]
    curves = {name: {dtype: runs[dtype]["curves"][name] for dtype in DTYPES} for name in names}
    return {
        "recipe": first["recipe"],
        "given": {key: value for key, value in first["given"].items() if key != "dtype"},
        "apart": {name: apart(*pair.values()) for name, pair in curves.items()},
        "curves": curves,
    }


def apart(
    one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]
) -> dict[str, float | int]:
    """Between two curves, in nats: how much higher the other is.

    Returns:
        ``points``, how many; ``largest``, of either sign, without it; ``mean`` with its sign.

    Raises:
        ValueError: they are not of the same steps.
    """
    if [step for step, _ in one] != [step for step, _ in other]:
        raise ValueError("dtypes: both curves must be of the same steps")
    higher = [second - first for (_, first), (_, second) in zip(one, other, strict=True)]
    return {
        "points": len(higher),
        "largest": float(f"{max(map(abs, higher)):.3g}"),
        "mean": float(f"{sum(higher) / len(higher):.3g}"),
    }


def save(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write it, with the machine and the versions it was taken with."""
    where = machine("cpu")
    target = folder / slug(where["device"])
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"dtypes-{found['recipe']}.json"
    path.write_text(json.dumps({"machine": where, **found}) + "\n")
    return path


def main(arguments: list[str] | None = None) -> None:
    """Run the recipes that were named, or all, in both dtypes."""
    recipes, given, folder = asked(arguments, __doc__.splitlines()[0])
    for recipe in recipes:
        found = beside({dtype: _run(recipe, {**given, "dtype": dtype}) for dtype in DTYPES})
        for name, by in found["apart"].items():
            print(
                f"{recipe}  {name}  {by['points']} points, at most {by['largest']} nats apart, "
                f"{by['mean']:+} in the mean"
            )
        if folder is not None:
            print(f"written: {save(folder, found)}")


def _run(recipe: str, given: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: nothing that one leaves is there for the other."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found, _ = pool.apply(whole_run, (recipe, given))
    return found


if __name__ == "__main__":
    main()
