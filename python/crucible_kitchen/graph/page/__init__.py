"""A workflow as a page that stands alone, drawn as it is nested; with what a run of it took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crucible_kitchen.graph.describe import describe
from crucible_kitchen.graph.workflow import Workflow

from .spent import Spent, Times, duration, read_events, without_indices
from .timeline import timeline

__all__ = ["Spent", "Times", "duration", "page", "read_events", "without_indices"]

_BESIDE = ("parallel", "switch")


def page(workflow: Workflow, run: Any = None) -> str:
    """The page as HTML; see `Workflow.html`."""
    # jinja2 takes a tenth of a second to import, and only pages need it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("crucible_kitchen.graph.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    root = describe(workflow)
    times = None if run is None else Times.of(read_events(run), workflow.name)
    stages = [node for node in _all(root) if node["kind"] == "stage"]
    return environment.get_template("page.html").render(
        root=root,
        times=times,
        stages=stages,
        keys=_keys(stages),
        timeline=None if times is None else timeline(times, _running(root)),
        branches=_branches,
        asks=_asks,
        short=lambda source: source.replace("\\", "/").rpartition("/")[2],
        duration=duration,
    )


def _all(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node["children"]:
        yield from _all(child)


def _running(root: dict[str, Any]) -> Iterator[str]:
    """Paths of what takes time of its own: stages, and what makes the items of an `async_loop`."""
    for node in _all(root):
        if node["kind"] == "stage":
            yield node["path"]
        elif "producer" in node:
            yield f"{node['path']}/producer"


def _keys(stages: list[dict[str, Any]]) -> dict[str, int]:
    """Every key with a number of its own, for the page's style."""
    keys = (key for node in stages for key in (*node["reads"], *node["writes"]))
    return {key: number for number, key in enumerate(dict.fromkeys(keys))}


def _branches(node: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """What stands side by side in a block: a label and what stands below it."""
    children = node["children"]
    if node["kind"] in _BESIDE:
        return [("", [child]) for child in children]
    others = [child for child in children if child["kind"] == "otherwise"]
    inside = [child for child in children if child["kind"] != "otherwise"]
    if node["kind"] != "when":
        return [("", children)]
    return [("yes", inside), *(("no", child["children"]) for child in others)]


def _asks(node: dict[str, Any]) -> str:
    """What a block asks for, in words."""
    parts = []
    if "over" in node:
        ahead = f", {node['prefetch']} read ahead" if "prefetch" in node else ""
        parts.append(f"each of {node['over']}{ahead}")
    if "producer" in node:
        parts.append(f"each that {node['producer']} makes meanwhile")
    if "stop_when" in node:
        parts.append(f"until {node['stop_when']}")
    if "max_staleness" in node:
        parts.append(f"from a state at most {node['max_staleness']} iterations old")
    if "while_" in node:
        parts.append(f"while {node['while_']}")
    if "max_iterations" in node:
        parts.append(f"at most {node['max_iterations']} times")
    if "max_concurrency" in node:
        parts.append(f"{node['max_concurrency']} at once")
    if "matches" in node:
        parts.append(", ".join(node["matches"]))
    if "on" in node:
        parts.append(str(node["on"]))
    if "predicate" in node and node["predicate"] != node["name"]:
        parts.append(str(node["predicate"]))
    return "; ".join(parts)
