"""`report.html`: one page that tells a run, and needs nothing beside itself."""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph.page import duration, without_indices
from crucible_kitchen.stages._folder import write_text

from .charts import Chart, chart, short
from .folder import REPORT, Point, Run, read_run

_HEADING = 34.0  # of a chart in a picture: its title and legend


@dataclass(frozen=True)
class Figure:
    """A key number, with what it is and a note below it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Spent:
    """The time all executions of one stage took together.

    Args:
        path: of the stage, without indices.
        name: its last part.
        count: executions.
        seconds: of all of them.
        share: of the largest, in [0, 1].
    """

    path: str
    name: str
    count: int
    seconds: float
    share: float

    @property
    def shown(self) -> str:
        """The time in a unit people read."""
        return duration(self.seconds)


def write(folder: Path) -> Path:
    """Write a run's page, from what is in its folder.

    Raises:
        CrucibleError: it is no run's folder, or the page could not be written.
    """
    path = folder / REPORT
    write_text(path, render(read_run(folder)))
    return path


def write_after(folder: Path, failed: bool) -> None:
    """`write` when a run has ended; where it failed, its own error matters more than the page's.

    Raises:
        CrucibleError: the run went well, and the page could not be written.
    """
    try:
        write(folder)
    except CrucibleError as error:
        if not failed:
            raise
        warnings.warn(f"no report: {error}", RuntimeWarning, stacklevel=4)  # the disk may be full


def render(run: Run) -> str:
    """The page as HTML."""
    spent = time_by_stage(run)
    page: str = _template("page.html").render(
        run=run,
        about=run.about,
        started=_date(run.about.get("started_at")),
        figures=figures(run),
        charts=list(charts(run)),
        spent=spent,
        spent_at={one.path: one for one in spent},
        rounds=iterations(run),
        shown=shown,
        duration=duration,
    )
    return page


def picture(run: Run) -> str:
    """What a run learnt as one SVG image that stands alone: its loss and, of pairs, its accuracy.

    Raises:
        CrucibleError: the run recorded neither.
    """
    drawn = [one for one in (loss_chart(run), accuracy_chart(run, width=1000)) if one is not None]
    if not drawn:
        raise CrucibleError(f"picture: {run.folder} must hold a run with a loss, got none recorded")
    tops = list(itertools.accumulate((one.height + _HEADING for one in drawn), initial=0.0))
    placed = list(zip(drawn, tops, strict=False))
    drawing: str = _template("picture.svg").render(placed=placed, width=1000, height=tops[-1])
    return drawing


def _template(name: str) -> Any:
    # jinja2 takes a tenth of a second to import, and only reports need it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("crucible_kitchen.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def figures(run: Run) -> list[Figure]:
    """The numbers that tell a run in one look."""
    found = []
    held_out, loss, accuracy = map(run.metric, ("eval_loss", "loss", "eval_accuracy"))
    if held_out:
        first, last = held_out[0].value, held_out[-1].value
        note = (
            f"{last - first:+.3f} {loss_unit(run)}".replace("-", "\N{MINUS SIGN}")
            if len(held_out) > 1
            else loss_unit(run)
        )
        found.append(Figure("held-out loss", _from_to(held_out), note))
    elif loss:
        found.append(Figure("training loss", _from_to(loss), loss_unit(run)))
    if accuracy:
        found.append(Figure("held-out accuracy", _from_to(accuracy), "chosen above rejected"))
    if loss:
        rows = run.about.get("config", {}).get("batch_size")
        times = run.about.get("config", {}).get("gradient_accumulation", 1)
        note = f"of {rows * times} rows" if rows else ""
        found.append(Figure("optimizer steps", f"{len(loss):,}", note))
    tokens, trained = run.metric("tokens"), run.metric("trained_tokens")
    if tokens:
        note = f"{sum(p.value for p in trained):,.0f} of them trained" if trained else ""
        found.append(Figure("tokens", f"{sum(p.value for p in tokens):,.0f}", note))
    rates = [point.value for point in run.metric("tokens_per_second")]
    if rates:
        found.append(
            Figure("tokens per second", short(statistics.median(rates)), "median of steps")
        )
    found.append(Figure("wall time", duration(run.seconds), "from start to end"))
    return found


def loss_unit(run: Run) -> str:
    """What the loss is counted in; only training on pairs knows an accuracy."""
    return "per pair" if run.metric("accuracy") else "nats per token"


def _from_to(points: Sequence[Point]) -> str:
    first, last = points[0].value, points[-1].value
    return f"{first:.3f} → {last:.3f}" if len(points) > 1 else f"{last:.3f}"


def charts(run: Run) -> Iterator[Chart]:
    """Loss, then what explains it."""
    others = (
        ("Learning rate", "", "learning_rate", "rate"),
        ("Gradient norm", "", "grad_norm", "norm"),
        ("Throughput", "tokens/s", "tokens_per_second", "speed"),
    )
    rest = [
        chart(
            title,
            unit,
            [(title.lower(), style, run.metric(name))],
            width=480,
            height=230,
            from_zero=True,
        )
        for title, unit, name, style in others
    ]
    found = (loss_chart(run), accuracy_chart(run), _both(run, "Reward margin", "margin"), *rest)
    yield from (one for one in found if one is not None)


def loss_chart(run: Run) -> Chart | None:
    """Training and held-out loss."""
    return _both(run, "Loss", "loss", loss_unit(run), width=1000, height=340)


def accuracy_chart(run: Run, width: float = 480) -> Chart | None:
    """How often the chosen answer is above the rejected one, of runs on pairs."""
    return _both(run, "Accuracy", "accuracy", width=width)


def _both(
    run: Run, title: str, name: str, unit: str = "", *, width: float = 480, height: float = 230
) -> Chart | None:
    """A metric of the training, and of held-out rows."""
    series = (
        ("training", "train", run.metric(name)),
        ("held-out", "held", run.metric(f"eval_{name}")),
    )
    return chart(title, unit, series, width=width, height=height)


def time_by_stage(run: Run) -> list[Spent]:
    """Where the time went, longest first."""
    seconds: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for event in run.events:
        if event["kind"] in ("stage.stop", "stage.error"):
            path = without_indices(event["path"])
            seconds[path] += float(event.get("duration_s", 0.0))
            counts[path] += 1
    most = max(seconds.values(), default=0.0) or 1.0
    found = [
        Spent(path, path.rpartition("/")[2], counts[path], spent, spent / most)
        for path, spent in seconds.items()
    ]
    return sorted(found, key=lambda one: -one.seconds)


def iterations(run: Run) -> Mapping[str, int]:
    """How often each loop's body ran, by its path without indices."""
    counts: dict[str, int] = defaultdict(int)
    for event in run.events:
        if event["kind"] == "iteration.start":
            counts[without_indices(event["path"])] += 1
    return counts


def shown(value: Any) -> str:
    """A configuration value as a user would write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return str(value)


def _date(started: Any) -> str:
    if not isinstance(started, int | float):
        return ""
    return time.strftime("%-d %B %Y, %H:%M UTC", time.gmtime(started))
