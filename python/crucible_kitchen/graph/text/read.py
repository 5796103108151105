"""Data of JSON as workflows; everything that is wrong with it is told at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from crucible_kitchen.errors import (
    ConfigError,
    CrucibleError,
    Problem,
    WorkflowError,
    did_you_mean,
)
from crucible_kitchen.graph.blocks import Block, Node, as_nodes, name_defects
from crucible_kitchen.graph.retry import Retry
from crucible_kitchen.graph.signature import Defect
from crucible_kitchen.graph.stage import ClassStage, Literal, StageNode, class_node
from crucible_kitchen.graph.stage_options import OPTIONS
from crucible_kitchen.graph.values import Value, as_value
from crucible_kitchen.graph.workflow import Workflow, workflow

from .forms import FORMS, written
from .paths import NotFound, find
from .plain import from_plain, tagged

REGIONS = ("finally", "on_error")
FIELDS = ("workflow", "body", *REGIONS)
_STAGE_FIELDS = ("options", "bind", "writes", *OPTIONS)
_RETRY_FIELDS = ("attempts", "backoff", "max_backoff", "jitter", "on")


def workflow_of(content: Any, source: str = "") -> Workflow:
    """The workflow of what `text_of` gave, or of what somebody wrote by hand.

    Args:
        content: a mapping; of YAML its mappings know their lines.
        source: of the text, for messages.
    Raises:
        WorkflowError: with everything that is wrong.
    """
    reader = _Reader(source)
    value = reader.workflow(content)
    if reader.problems:
        raise WorkflowError(reader.problems)
    return value


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def workflow(self, content: Any) -> Workflow:
        if not isinstance(content, dict) or not isinstance(content.get("workflow"), str):
            message = f"a workflow is a mapping with workflow: NAME and body:, got {content!r:.60}"
            self.note("bad-text", "workflow", message, self.at(content))
            return workflow("workflow")
        name, at = content["workflow"], self.at(content)
        self.fields(content, FIELDS, name, "a workflow")
        made = workflow(name)
        self.defects(made.defects, name, at)
        changes: dict[str, Any] = {"source": at, "body": self.body(content, "body", name)}
        for label in REGIONS:
            if label in content:
                changes[f"{label}_body"] = self.body(content, label, f"{name}/{label}")
        return replace(made, **changes)

    def body(self, content: Mapping[str, Any], field: str, path: str) -> tuple[Node, ...]:
        """The nodes under one key of a mapping."""
        items = content.get(field)
        if not isinstance(items, list):
            got = "nothing" if items is None else f"{items!r:.60}"
            message = f"{field} must be a list of stages and blocks, got {got}"
            self.note("bad-text", path, message, self.at(content))
            return ()
        nodes: list[tuple[Node, bool]] = []
        lines = getattr(items, "lines", None) or [0] * len(items)
        for number, (item, line) in enumerate(zip(items, lines, strict=True)):
            at = f"{self.source}:{line}" if line else self.source
            node = self.item(item, path, f"{path}/{field}[{number}]", at)
            if node is not None:
                named = isinstance(item, dict) and "name" in item
                nodes.append((node, named))
        # Blocks that have no name of their own are numbered, as brackets do it.
        fresh = as_nodes([node for node, _ in nodes], self.source)
        return tuple(
            node if named else new for (node, named), new in zip(nodes, fresh, strict=True)
        )

    def item(self, item: Any, around: str, path: str, at: str) -> Node | None:
        """One stage or block.

        Args:
            item: a stage's import path, or a mapping.
            around: path of what it stands in.
            path: what to call it while its name is not known.
            at: where it is written.
        """
        if isinstance(item, str):
            item = {"stage": item}
        if not isinstance(item, dict):
            self.note("bad-text", path, f"must be a stage or a block, got {item!r:.60}", at)
            return None
        kinds = [key for key in item if key == "stage" or key in FORMS]
        if len(kinds) != 1:
            message, near = f"says {' and '.join(map(repr, kinds))}: it must be one thing", ""
            if not kinds:
                first = next(map(str, item), "")
                message = f"there is no block {first!r}" if first else "is empty"
                near = did_you_mean(first, ("stage", *FORMS))
            self.note("unknown-block", path, message, at, near)
            return None
        if kinds[0] == "stage":
            return self.stage(item, around, path, at)
        return self.block(kinds[0], item, around, path, at)

    def block(self, kind: str, item: dict[str, Any], around: str, path: str, at: str) -> Block:
        form = FORMS[kind]
        by_name = form.head == "name"
        path = f"{around}/{item[kind]}" if by_name else path
        self.fields(item, (kind, *form.fields), path, f"a {kind}")
        given: dict[str, Any] = {}
        for option in form.values:
            if written(option) in item:
                given[option] = self.value(item[written(option)], written(option), path, at)
        for option in form.plain:
            if option in item:
                given[option] = item[option]
        if by_name:
            block = form.make(item[kind], **given)
        elif form.head == "matches":
            matches = item[kind] if isinstance(item[kind], list) else [item[kind]]
            block = form.make([self.plain(one, path, at) for one in matches])
        else:
            block = form.make(self.value(item[kind], kind, path, at))
        if "name" in item and not by_name:
            block = replace(block, name=str(item["name"]))
            self.defects(name_defects(kind, item["name"]), path, at)
        path = f"{around}/{block.name}"
        self.defects(block.defects, path, at)
        changes: dict[str, Any] = {"source": at, "body": self.body(item, "body", path)}
        for label in form.bodies:
            if label in item:
                changes[f"{label}_body"] = self.body(item, label, f"{path}/{label}")
        return replace(block, **changes)

    def stage(self, item: dict[str, Any], around: str, path: str, at: str) -> StageNode | None:
        found = self.found(item["stage"], path, at)
        node = self.stage_node(found, item, path, at)
        if node is None:
            return None
        path = f"{around}/{item.get('name', node.name)}"
        self.fields(item, ("stage", *_STAGE_FIELDS), path, "a stage")
        bind, writes = item.get("bind") or {}, item.get("writes")
        if not isinstance(bind, dict) or not all(isinstance(name, str) for name in bind):
            self.note("bad-text", path, f"bind must map parameters to keys, got {bind!r:.60}", at)
            bind = {}
        if not isinstance(writes, str | dict | None):
            message = f"writes must be a key, or map keys to keys, got {writes!r:.60}"
            self.note("bad-text", path, message, at)
            writes = None
        options = {name: item[name] for name in OPTIONS if name in item}
        if isinstance(options.get("retry"), dict):
            options["retry"] = self.retry(options["retry"], path, at)
        known = len(node.defects)
        bound = {name: self.bound(value, f"bind.{name}", path, at) for name, value in bind.items()}
        if bound or writes:
            node = node.bind(writes=writes, **bound)
        if options:
            node = node.with_(**{name: self.plain(one, path, at) for name, one in options.items()})
        self.defects(node.defects[known:], path, at)
        return node

    def stage_node(self, found: Any, item: dict[str, Any], path: str, at: str) -> StageNode | None:
        """What an import path gave, as a stage; None, and a problem, where it is none."""
        options = item.get("options") or {}
        if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
            message = f"options must map names to values, got {options!r:.60}"
            self.note("bad-text", path, message, at)
            return None
        if isinstance(found, type) and issubclass(found, ClassStage):
            try:
                return class_node(
                    found(**{name: self.plain(one, path, at) for name, one in options.items()})
                )
            except (ConfigError, CrucibleError, TypeError) as error:
                self.note("bad-option", path, str(error), at)
                return None
        if options:
            self.note("unknown-option", path, "options are for stages that are classes", at)
        if isinstance(found, ClassStage):
            return class_node(found)
        if isinstance(found, StageNode):
            return found
        if found is not None:
            what = f"the function {item['stage']!r}" if callable(found) else repr(found)[:60]
            advice = "a stage is a function with @stage, or a class derived from Stage"
            self.note("not-a-stage", path, f"{what} is not a stage", at, advice)
        return None

    def value(self, given: Any, option: str, path: str, at: str) -> Value:
        """What a block asks for: an import path, a key or a literal."""
        if isinstance(given, str) and ":" in given:
            found = self.found(given, path, at)
            if callable(found) and not isinstance(found, type):
                return as_value(found, 1)
            if found is not None:
                message = f"{option}: {given!r} is no function"
                self.note("bad-option", path, message, at, "{key: ...} means a key")
            return Value("literal", ())
        if isinstance(given, str):
            return Value("key", given)
        if isinstance(given, dict) and isinstance(given.get("key"), str) and len(given) == 1:
            return Value("key", given["key"])
        return Value("literal", self.literal(given, option, path, at))

    def bound(self, given: Any, option: str, path: str, at: str) -> Any:
        """What a parameter is bound to: a key's name, or a literal."""
        if isinstance(given, str):
            return given
        if isinstance(given, dict) and isinstance(given.get("key"), str) and len(given) == 1:
            return given["key"]
        return Literal(self.literal(given, option, path, at))

    def literal(self, given: Any, option: str, path: str, at: str) -> Any:
        try:
            if isinstance(given, dict):
                literal = len(given) == 1 and "literal" in given
                return from_plain(given["literal"]) if literal else tagged(given)
            return from_plain(given)
        except (NotFound, ValueError) as error:
            self.note("bad-text", path, f"{option}: {error}", at, getattr(error, "help", ""))
            return ()

    def plain(self, given: Any, path: str, at: str) -> Any:
        try:
            return from_plain(given)
        except (NotFound, ValueError) as error:
            self.note("bad-text", path, str(error), at, getattr(error, "help", ""))
            return None

    def retry(self, given: dict[str, Any], path: str, at: str) -> Retry | None:
        self.fields(given, _RETRY_FIELDS, path, "retry")
        options = {name: value for name, value in given.items() if name in _RETRY_FIELDS}
        if "on" in options:
            kinds = options["on"] if isinstance(options["on"], list) else [options["on"]]
            found = tuple(self.found(kind, path, at) for kind in kinds)
            if None in found:
                return None
            options["on"] = found if isinstance(given["on"], list) else found[0]
        try:
            return Retry(**options)
        except (TypeError, ValueError) as error:
            self.note("bad-option", path, f"retry: {error}", at)
            return None

    def found(self, import_path: Any, path: str, at: str) -> Any:
        """What an import path names; None, and a problem, where it names nothing."""
        try:
            return find(import_path if isinstance(import_path, str) else repr(import_path))
        except NotFound as error:
            self.note("not-found", path, str(error), at, error.help)
            return None

    def fields(self, item: Mapping[Any, Any], known: Iterable[str], path: str, what: str) -> None:
        """Note every key that this kind of thing does not have."""
        names = tuple(known)
        for key in item:
            if key not in names:
                near = did_you_mean(str(key), names)
                message = f"{what} has no field {key!r}"
                self.note("unknown-field", path, message, self.at(item), near)

    def defects(self, defects: Iterable[Defect], path: str, at: str) -> None:
        for code, message, advice, _ in defects:
            self.note(code, path, message, at, advice)

    def note(self, code: str, path: str, message: str, at: str, advice: str = "") -> None:
        self.problems.append(Problem(code, path, message, at, advice))

    def at(self, item: Any) -> str:
        """``file:line`` of a mapping; the file where lines are unknown."""
        line = getattr(item, "line", 0)
        return f"{self.source}:{line}" if line else self.source
