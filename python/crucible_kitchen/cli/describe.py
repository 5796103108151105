"""``crucible describe``: a recipe's workflow, ports and configuration."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crucible_kitchen import bootstrap
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.recipes import find_target
from crucible_kitchen.report.page import shown
from crucible_kitchen.stages._folder import write_text

HELP = "show a recipe's workflow, ports and configuration"
_WIDEST = 100
_ASKS = (("over", "over"), ("while_", "while"))


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument(
        "target", help="a recipe's name, or a YAML file with a recipe or a workflow"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with every key and type")
    parser.add_argument("--html", metavar="FILE", help="write the drawn workflow as a page")
    parser.add_argument(
        "--run", metavar="RUN_DIR", help="with --html: what that run took, by stage"
    )


def main(arguments: argparse.Namespace) -> int:
    """Print it, or write its page."""
    if arguments.html:
        page = find_target(arguments.target).workflow.html(arguments.run)
        write_text(Path(arguments.html), page)
        print(arguments.html)
        return 0
    if arguments.run:
        raise ConfigError("--run needs --html: it is drawn into the page")
    about = bootstrap.describe(arguments.target)
    if arguments.json:
        print(json.dumps(about, indent=2, default=str))
        return 0
    width = min(shutil.get_terminal_size((80, 24)).columns, _WIDEST)
    print(": ".join(filter(None, (about["name"], about["description"]))) + "\n")
    print("workflow")
    for line in workflow_lines(about["workflow"]["children"]):
        print(f"  {line}")
    if about["required_ports"] or about["optional_ports"]:
        print("\nports")
    for port in about["required_ports"]:
        print(f"  {port}")
    for port in about["optional_ports"]:
        print(f"  {port} (optional)")
    if about["config"]:
        print("\nconfiguration")
    for entry in about["config"]:
        for line in _field_lines(entry, width):
            print(f"  {line}")
    return 0


def workflow_lines(nodes: list[dict[str, Any]], indent: str = "") -> Iterator[str]:
    """A workflow as indented text, one line a node."""
    for node in nodes:
        yield f"{indent}{title(node)}"
        yield from workflow_lines(node["children"], indent + "  ")


def title(node: Mapping[str, Any]) -> str:
    """What a node is called where it is drawn."""
    kind, name = node["kind"], node["name"]
    if kind == "when":
        return f"when {node.get('predicate', name)}"
    if kind == "switch":
        return f"switch {node['on']}"
    if kind == "case":
        return f"case {', '.join(node['matches'])}"
    how = [f"{word} {node[key]}" for key, word in _ASKS if key in node]
    return " ".join((kind, name, *how)) if how or kind in ("parallel", "scope") else str(name)


def _field_lines(entry: Mapping[str, Any], width: int) -> list[str]:
    head = f"{entry['name']}={shown(entry['default'])}"
    return textwrap.wrap(
        f"{head:<36} {entry['description']}",
        width - 2,
        subsequent_indent=" " * 37,
        drop_whitespace=True,
        break_long_words=False,
    )
