"""`Console`: what a run does, for people; bars on a terminal, lines of text elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from crucible_kitchen.engine.events import Event

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

_EVERY_S = 2.0
_RATE = "tokens_per_second"
_MEMORY = 0.7
_REPEATING = ("loop", "fan_out")


class Console:
    """Shows nested loops with their progress and time left, the metrics, and what failed.

    A metric called ``loss`` is shown as it changes; so is throughput, as ``tokens_per_second``.
    Metrics recorded outside loops, and those called ``eval...``, are shown when they arrive.

    Args:
        console: of rich, where another one than standard error is wanted.
        slow_s: stages outside loops that take longer than this are named when they end, seconds.
    """

    def __init__(self, console: RichConsole | None = None, slow_s: float = 0.1) -> None:
        from rich.console import Console as RichConsole

        self._console = console or RichConsole(stderr=True, highlight=False)
        self._slow_s = slow_s
        self._view: _Bars | _Lines = (
            _Bars(self._console) if self._console.is_terminal else _Lines(self._console)
        )
        self._latest: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        kind, path = event.kind, event.path
        if kind == "stage.stop":
            if "[" not in path and (event.duration_s or 0.0) >= self._slow_s:
                self._view.say(f"{_inside(path)}  [dim]{duration(event.duration_s)}[/dim]")
        elif kind == "iteration.start":
            self._view.advance(_loop_of(path), event.iteration or 0, event.total)
        elif kind == "metric":
            self._metric(event)
        elif kind == "block.start" and event.block in _REPEATING:
            self._view.begin(path, event.total)
        elif kind in ("block.stop", "block.error") and event.block in _REPEATING:
            self._view.end(path, finished=kind == "block.stop")
        elif kind == "stage.retry":
            self._view.say(
                f"[yellow]retry[/yellow] {_escape(f'{_inside(path)} (attempt {event.attempt})')}: "
                f"{_escape(event.error)}"
            )
        elif kind == "run.start":
            self._begin(event)
        elif kind in ("run.stop", "run.error"):
            self._finish(event)

    def _begin(self, event: Event) -> None:
        run_dir = (event.metadata or {}).get("run_dir")
        self._view.say(f"[bold]{event.name}[/bold]" + (f"  {_escape(run_dir)}" if run_dir else ""))

    def _metric(self, event: Event) -> None:
        assert event.name is not None
        assert event.value is not None
        self._latest[event.name] = value = event.value
        if event.name in ("loss", _RATE):
            self._view.show(_figures(self._latest))
            return
        if "[" in event.path and not event.name.startswith("eval"):
            return  # comes with every step: too much to read, and the run's files keep it
        at = f" [dim]at step {event.step}[/dim]" if event.step is not None else ""
        self._view.say(f"{_escape(event.name)} {number(value)}{at}")

    def _finish(self, event: Event) -> None:
        self._view.close()
        took = duration(event.duration_s)
        if event.kind == "run.stop":
            self._console.print(f"[green]done[/green] in {took}")
        else:
            self._console.print(f"[red]failed[/red] after {took}: {_escape(event.error)}")

    def close(self) -> None:
        """Take the bars off the terminal."""
        self._view.close()


class _Lines:
    """For logs and pipes: a line now and then, none of it ever overwritten."""

    def __init__(self, console: RichConsole) -> None:
        self._console = console
        self._loops: dict[str, _Pace] = {}
        self._figures = ""
        self._said = time.monotonic()

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def begin(self, loop: str, total: int | None) -> None:
        self._loops[loop] = _Pace(total)

    def advance(self, loop: str, iteration: int, total: int | None) -> None:
        self._loops[loop].at(iteration)
        # At its first iteration a loop has nothing to tell yet.
        if iteration > 0 and time.monotonic() - self._said >= _EVERY_S:
            self._report()

    def show(self, figures: str) -> None:
        self._figures = figures

    def end(self, loop: str, *, finished: bool) -> None:
        pace = self._loops.pop(loop)
        if finished and pace.iteration >= 0:
            pace.iteration += 1
            count = f"{pace.iteration} iteration" + ("s" if pace.iteration != 1 else "")
            if not self._loops:  # inner loops end all the time; `_report` tells where they are
                self.say(f"{loop.rpartition('/')[2]}: {count}  {self._figures}".rstrip())
                self._said = time.monotonic()

    def _report(self) -> None:
        self._said = time.monotonic()
        parts = [f"{name.rpartition('/')[2]} {pace}" for name, pace in self._loops.items()]
        left = next((p.left() for p in self._loops.values() if p.left() is not None), None)
        ahead = f"{duration(left)} left" if left is not None else ""
        self.say("  ".join(part for part in (*parts, self._figures, ahead) if part))

    def close(self) -> None:
        """Nothing is left behind."""


class _Pace:
    """How far a loop is and how fast it goes.

    Args:
        total: iterations there will be, None where nobody knows.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.iteration = -1
        self._began = time.monotonic()
        self._each: float | None = None
        self._last = self._began

    def at(self, iteration: int) -> None:
        """Note that an iteration begins."""
        now = time.monotonic()
        if iteration > 0:
            spent = now - self._last
            # The first ones are slow (warm-up), so the recent ones weigh more.
            self._each = (
                spent if self._each is None else _MEMORY * self._each + (1 - _MEMORY) * spent
            )
        # Copies of a fan_out may begin out of order.
        self._last, self.iteration = now, max(iteration, self.iteration)

    def left(self) -> float | None:
        """Seconds until it is done, None where nobody knows."""
        if self.total is None or self._each is None:
            return None
        running = min(time.monotonic() - self._last, self._each)
        return max(0.0, (self.total - self.iteration) * self._each - running)

    def __str__(self) -> str:
        return f"{self.iteration + 1}" + (f"/{self.total}" if self.total is not None else "")


class _Bars:
    """For terminals: one bar a loop that is running, inner ones indented."""

    def __init__(self, console: RichConsole) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress: Any = Progress(
            TextColumn("{task.fields[label]}"),
            BarColumn(bar_width=18),
            TextColumn("{task.fields[pace]}"),
            TextColumn("[dim]{task.fields[left]}[/dim]"),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._tasks: dict[str, tuple[Any, _Pace]] = {}
        self._running = False

    def say(self, text: str) -> None:
        self._progress.console.print(text, soft_wrap=True)

    def begin(self, loop: str, total: int | None) -> None:
        if not self._running:
            self._progress.start()
            self._running = True
        label = "  " * len(self._tasks) + loop.rpartition("/")[2]
        pace = _Pace(total)
        # Figures stand beside the loop that records them, and not at every loop inside it.
        task = self._progress.add_task("", total=total, label=label, pace="", left="", figures="")
        self._tasks[loop] = task, pace

    def advance(self, loop: str, iteration: int, total: int | None) -> None:
        task, pace = self._tasks[loop]
        pace.at(iteration)
        left = pace.left()
        ahead = f"{duration(left)} left" if left is not None else ""
        self._progress.update(task, completed=iteration, pace=str(pace), left=ahead)

    def show(self, figures: str) -> None:
        if self._tasks:
            (*_, (innermost, _)) = self._tasks.values()
            self._progress.update(innermost, figures=figures)

    def end(self, loop: str, *, finished: bool) -> None:
        task, _ = self._tasks.pop(loop)
        self._progress.remove_task(task)

    def close(self) -> None:
        """Stop drawing, and leave the terminal as it was."""
        if self._running:
            self._progress.stop()
            self._running = False


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def number(value: Any) -> str:
    """A metric's value, short."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _escape(str(value))
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _figures(latest: dict[str, float]) -> str:
    shown = []
    if "loss" in latest:
        shown.append(f"loss {latest['loss']:.4f}")
    if _RATE in latest:
        shown.append(f"{latest[_RATE]:,.0f} tokens/s")
    return "  ".join(shown)


def _loop_of(path: str) -> str:
    """``sft/epochs[2]/batches`` of ``sft/epochs[2]/batches[153]``."""
    return path[: path.rindex("[")]


def _inside(path: str) -> str:
    """``load_data`` of ``sft/load_data``."""
    return path.partition("/")[2]


def _escape(text: object) -> str:
    from rich.markup import escape

    return escape(str(text))
