"""What all recipes share: strict types, no unknown keys, readable errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from crucible_kitchen.errors import ConfigError, did_you_mean
from crucible_kitchen.graph import Workflow

C = TypeVar("C", bound="RecipeConfig")


class RecipeConfig(BaseModel):
    """Base of a recipe's `Config`; `parse` makes one, or says everything that is wrong at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())

    @classmethod
    def parse(cls: type[C], given: C | Mapping[str, Any] | None, *, recipe: str) -> C:
        """A checked configuration.

        Args:
            given: one already, a mapping of its fields, or None for the defaults.
            recipe: name of the recipe, for the message.
        Raises:
            ConfigError: unknown keys, with suggestions, and wrong values, all of them.
        """
        if isinstance(given, cls):
            return given
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(
                f"{recipe}: config must be a mapping or a {cls.__qualname__}, "
                f"got {type(given).__name__}"
            )
        try:
            return cls.model_validate(dict(given or {}))
        except ValidationError as error:
            said = _sentences(error, cls)
        raise ConfigError("\n".join([f"{recipe}: the configuration is wrong:", *said]))

    @classmethod
    def fields(cls) -> list[dict[str, Any]]:
        """Every field as plain data: ``name``, ``type``, ``default``, ``description``."""
        schema = cls.model_json_schema()["properties"]
        return [
            {
                "name": name,
                "type": _type_of(schema[name]),
                "default": field.default,
                "description": field.description or "",
            }
            for name, field in cls.model_fields.items()
        ]


class Recipe:
    """Base of recipes, which are classes and never made.

    Attributes:
        name: what `run` calls it.
        description: in one sentence.
        Config: its configuration, with defaults.
        required_ports: ports it cannot do without.
        optional_ports: ports it uses where they are there.
        workflow: what it runs.
        calibration: a few of its steps, which tell what all will take; None where it has none.
        preview: what shows the rows it would train on; writes ``preview``.
            None where it cannot.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    Config: ClassVar[type[RecipeConfig]]
    required_ports: ClassVar[tuple[str, ...]]
    optional_ports: ClassVar[tuple[str, ...]] = ()
    workflow: ClassVar[Workflow]
    calibration: ClassVar[Workflow | None] = None
    preview: ClassVar[Workflow | None] = None


def _type_of(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words, such as ``integer`` or ``linear | cosine``."""
    if "anyOf" in schema:
        return " | ".join(map(_type_of, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return "mapping"
    if schema.get("type") == "array":
        return f"list of {_type_of(schema['items'])}"
    names = {"string": "text", "null": "none", "integer": "whole number", "object": "mapping"}
    return names.get(schema.get("type", ""), str(schema.get("type", "any")))


def _sentences(error: ValidationError, cls: type[BaseModel]) -> list[str]:
    """One line a field, or one for each wrong part of its value."""
    by_field: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_field.setdefault(str(detail["loc"][0]) if detail["loc"] else "", []).append(detail)
    lines: list[str] = []
    for key, details in by_field.items():
        # Of a union one branch fits but for some parts, whose place comes behind field and branch.
        parts = [detail for detail in details if len(detail["loc"]) > 2]
        lines += [_part(detail, cls) for detail in parts] or [_field(key, details, cls)]
    return lines


def _field(key: str, details: Sequence[ErrorDetails], cls: type[BaseModel]) -> str:
    """What is wrong with a field; the branches of a union are joined."""
    if details[0]["type"] == "extra_forbidden":
        return f"  - unknown key {key!r}; {did_you_mean(key, cls.model_fields)}"
    wants = dict.fromkeys(_wanted(detail) for detail in details)
    if not key:
        return "\n".join(f"  - {want}" for want in wants)
    return f"  - {key} must be {' or '.join(wants)}, got {_shown(details[0]['input'])}"


def _part(detail: ErrorDetails, cls: type[BaseModel]) -> str:
    """What is wrong with one entry of a field's value, which is named by its place."""
    key, _, *inner = map(str, detail["loc"])
    if detail["type"] == "extra_forbidden":
        inside = cls.model_json_schema()["$defs"].values()
        known = {name for one in inside for name in one.get("properties", ())}
        where = ".".join([key, *inner[:-1]])
        return f"  - unknown key {inner[-1]!r} of {where}; {did_you_mean(inner[-1], known)}"
    where = f"a key of {key}" if inner[-1] == "[key]" else ".".join([key, *inner])
    return f"  - {where} must be {_wanted(detail)}, got {_shown(detail['input'])}"


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "missing": "given",
    "finite_number": "finite",
}


def _wanted(detail: ErrorDetails) -> str:
    if detail["type"] in _KINDS:
        return _KINDS[detail["type"]]
    message = detail["msg"].removeprefix("Value error, ")
    for start in ("Input should be ", "Input should "):
        message = message.removeprefix(start)
    return message.replace("greater than or equal to", "at least").replace("greater than", "above")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
