"""A plan as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Estimate, Plan, PlanNode

_WIDTH = 80
_LABEL = 10


def text(plan: Plan) -> str:
    """The plan, a line a stage."""
    timed = plan.critical_s is not None
    lines = [_headline(plan), ""]
    if plan.estimate is not None:
        lines += _estimate(plan.estimate)
    head = f"{'runs':>7}  {'time':>8}    stage" if timed else f"{'runs':>7}    stage"
    lines += [head, *_tree(plan.root.children, timed, 0), ""]
    for name, adapter in plan.ports.items():
        lines += _entry("" if lines[-1].startswith(("ports", " ")) else "ports", name, adapter)
    lines += _wrapped("config", plan.config_keys)
    lines += _wrapped("state", plan.state_keys)
    for warning in plan.warnings:
        lines += _wrapped("warning", [str(warning)])
    return "\n".join(line.rstrip() for line in lines)


def _headline(plan: Plan) -> str:
    count = len(plan.stages)
    wide = "as many at once as there are items" if plan.width is None else f"{plan.width} at once"
    said = f"{plan.name}: {count} stages, {wide} at most, "
    if plan.critical_s is None:
        return f"{said}{len(plan.critical_path)} in a row (*)"
    assert plan.sequential_s is not None
    return f"{said}{duration(plan.critical_s)} of {duration(plan.sequential_s)} in a row (*)"


def _estimate(estimate: Estimate) -> Iterator[str]:
    parts = ", ".join(f"{part} {duration(spent)}" for part, spent in estimate.seconds.items())
    memory = f"{estimate.memory_bytes / 1e9:.2f} GB at most"
    yield from _wrapped("steps", [f"{estimate.steps:,}, of {estimate.tokens:,} tokens in all"])
    yield from _wrapped("time", [f"{duration(estimate.total_s)}: {parts}"])
    yield from _wrapped("memory", [memory])
    yield from _wrapped("", [f"(reckoned from {estimate.measured_steps} real steps)"])
    yield ""


def _tree(nodes: tuple[PlanNode, ...], timed: bool, depth: int) -> Iterator[str]:
    for node in nodes:
        time = ""
        if timed:
            time = f"{'?' if node.seconds is None else duration(node.seconds):>8}  "
        left = f"{node.runs!s:>7}  {time}{'*' if node.critical else ' '} {'  ' * depth}{node.title}"
        ports = " ".join(node.ports) if node.kind == "stage" else ""
        room = _WIDTH - len(left) - 2
        if len(ports) > room:
            yield left[:_WIDTH]
            left, room = "", _WIDTH
        yield f"{left}  {ports:>{room}}" if ports else left[:_WIDTH]
        yield from _tree(node.children, timed, depth + 1)


def _entry(label: str, name: str, adapter: str | None) -> list[str]:
    shown = "none; it is optional" if adapter is None else adapter
    return [f"{label:<{_LABEL}}{name:<17} {shown.removeprefix('crucible_kitchen.')}"[:_WIDTH]]


def _wrapped(label: str, words: object) -> list[str]:
    return textwrap.wrap(
        " ".join(map(str, words)),  # type: ignore[call-overload]
        _WIDTH,
        initial_indent=f"{label:<{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )


def duration(seconds: float) -> str:
    """Seconds in at most eight letters, such as ``12.5 s`` or ``3 h 05 m``."""
    if seconds < 0.0995:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{seconds / 60:.1f} min"
    return f"{minutes // 60} h {minutes % 60:02d} m"
