"""The two kinds of text, JSON and YAML."""

from __future__ import annotations

import json
from typing import Any

from crucible_kitchen.errors import Problem, WorkflowError
from crucible_kitchen.graph.workflow import Workflow

from .read import workflow_of
from .write import text_of


def to_json(workflow: Workflow) -> str:
    """A workflow as JSON; see `Workflow.to_json`."""
    return json.dumps(text_of(workflow), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_yaml(workflow: Workflow) -> str:
    """A workflow as YAML; see `Workflow.to_yaml`."""
    from .yaml_text import dump_yaml

    return dump_yaml(text_of(workflow))


def from_json(text: str, source: str = "") -> Workflow:
    """A workflow from JSON; see `Workflow.from_json`."""
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _not_a_document("JSON", source, error) from error
    return workflow_of(content, source)


def from_yaml(text: str, source: str = "") -> Workflow:
    """A workflow from YAML; see `Workflow.from_yaml`."""
    from .yaml_text import parse_yaml

    try:
        content = parse_yaml(text, lines=True)
    except ValueError as error:
        raise _not_a_document("YAML", source, error) from error
    return workflow_of(content, source)


def parse_json(text: str) -> Any:
    """A JSON document.

    Raises:
        ValueError: it is not JSON, or has a key twice in a mapping.
    """
    return json.loads(text, object_pairs_hook=_each_key_once)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = value
    return found


def _not_a_document(kind: str, source: str, error: ValueError) -> WorkflowError:
    return WorkflowError([Problem("not-a-document", "workflow", f"not {kind}: {error}", source)])
