"""A recipe or a workflow as plain data, for those who list what can be run."""

from __future__ import annotations

from typing import Any

from crucible_kitchen import graph

from ._target import find_target


def describe(target: object) -> dict[str, Any]:
    """What a recipe or a workflow is, as plain data.

    Returns:
        ``name``, ``description``, ``required_ports``, ``optional_ports``, ``config`` (a dict a
        field: ``name``, ``type``, ``default``, ``description``) and ``workflow``.
    """
    found = find_target(target)
    recipe, drawn = found.recipe, graph.describe(found.workflow)
    if recipe is None:
        return {
            "name": found.name,
            "description": "",
            "required_ports": drawn["ports"],
            "optional_ports": [],
            "config": [],
            "workflow": drawn,
        }
    return {
        "name": recipe.name,
        "description": recipe.description,
        "required_ports": list(recipe.required_ports),
        "optional_ports": list(recipe.optional_ports),
        "config": recipe.Config.fields(),
        "workflow": drawn,
    }
