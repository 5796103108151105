"""Workflows as JSON and YAML, and back; what runs is named by its import path."""

from .documents import from_json, from_yaml, parse_json, to_json, to_yaml
from .read import FIELDS, workflow_of

__all__ = ["FIELDS", "from_json", "from_yaml", "parse_json", "to_json", "to_yaml", "workflow_of"]
