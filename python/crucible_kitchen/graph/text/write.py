"""Workflows as data of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError

from crucible_kitchen.errors import Problem, WorkflowError
from crucible_kitchen.graph.blocks import Block, Node, as_nodes, walk
from crucible_kitchen.graph.branches import Case
from crucible_kitchen.graph.retry import Retry
from crucible_kitchen.graph.stage import Literal, StageNode, class_node
from crucible_kitchen.graph.stage_options import OPTIONS
from crucible_kitchen.graph.values import Value
from crucible_kitchen.graph.workflow import Workflow

from .forms import FORMS, written
from .paths import Unwritable, find, find_path, path_of
from .plain import from_plain, to_plain

if TYPE_CHECKING:
    from crucible_kitchen.graph.class_stage import Stage

Text = dict[str, Any]


def text_of(workflow: Workflow) -> Text:
    """A workflow as dicts, lists, texts and numbers.

    Raises:
        WorkflowError: with everything in it that has no text.
    """
    writer = _Writer()
    content: Text = {"workflow": workflow.name}
    content["body"] = writer.body(workflow.body, workflow.name)
    for label, body in workflow.regions[1:]:
        content[label] = writer.body(body, f"{workflow.name}/{label}")
    problems = [*_broken(workflow), *writer.problems]
    if problems:
        raise WorkflowError(problems)
    return content


def _broken(workflow: Workflow) -> Iterator[Problem]:
    """What is wrong already: it would be lost on the way, and the copy look right."""
    for path, node in walk(workflow):
        for code, message, advice, place in node.defects:
            yield Problem(code, path, message, place or node.source, advice)


class _Writer:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def body(self, body: tuple[Node, ...], path: str) -> list[Any]:
        """The nodes of one body; what has no text is noted as a problem and left out."""
        named = _say_names(body)
        entries: list[Any] = []
        for node in body:
            where = f"{path}/{node.name}"
            try:
                if isinstance(node, StageNode):
                    entries.append(_stage(node))
                elif isinstance(node, Block):
                    entries.append(self.block(node, where, named))
            except Unwritable as error:
                source = error.source or node.source
                problem = Problem("not-writable", where, str(error), source, error.help)
                self.problems.append(problem)
        return entries

    def block(self, block: Block, path: str, named: bool) -> Text:
        """One block.

        Args:
            block: to write.
            path: of it.
            named: whether a block that is called after its predicate needs its name said.
        """
        if block.kind not in FORMS:
            raise Unwritable(f"a block of kind {block.kind!r} cannot be written")
        form = FORMS[block.kind]
        entry: Text = {block.kind: block.name}
        if form.head != "name":
            entry[block.kind] = _head(getattr(block, form.head))
            if named:
                entry["name"] = block.name
        for option in form.values:
            value = getattr(block, option)
            if value is not None:
                entry[written(option)] = _value(value)
        for option in form.plain:
            value = getattr(block, option)
            if value is not None:
                entry[option] = dict(value) if option == "collect" else value
        for label, body in block.regions:
            entry[label or "body"] = self.body(body, f"{path}/{label}" if label else path)
        return entry


def _say_names(body: tuple[Node, ...]) -> bool:
    """Whether the blocks of a body are called otherwise than they would be by themselves."""
    unnamed = [node for node in body if isinstance(node, Block) and not node.named]
    if any(isinstance(node, Case) and not all(map(_is_simple, node.matches)) for node in unnamed):
        return True
    by_itself = {id(node): replace(node, name=default_name(node)) for node in unnamed}
    fresh = as_nodes([by_itself.get(id(node), node) for node in body], "")
    return [node.name for node in fresh] != [node.name for node in body]


def _is_simple(match: Any) -> bool:
    # A set is shown in another order each time, and so names a case otherwise each time.
    return match is None or isinstance(match, (str, int, float, Enum))


def default_name(block: Block) -> str:
    """What a block is called that is called after what it asks for."""
    form = FORMS[block.kind]
    return form.make(getattr(block, form.head)).name


def _head(given: Any) -> Any:
    """What stands behind the kind of a `when`, `switch` or `case`."""
    if isinstance(given, Value):
        return _value(given)
    matches = [to_plain(value) for value in given]
    return matches if len(matches) != 1 or isinstance(matches[0], list) else matches[0]


def _value(value: Value) -> Any:
    """A callable as its import path, a key as its name, a literal as itself."""
    if value.kind == "call":
        return path_of(value.of)
    if value.kind == "key":
        return _key(value.of)
    return _literal(value.of)


def _key(key: str) -> Any:
    return {"key": key} if ":" in key else key


def _literal(value: Any) -> Any:
    # A text would be a key, and a mapping without a tag nothing at all.
    return {"literal": to_plain(value)} if type(value) in (str, dict) else to_plain(value)


def _stage(node: StageNode) -> Any:
    """A stage: its import path, and what its place in the workflow changes."""
    entry: Text = {}
    if node.of_class:
        entry["stage"] = path_of(type(node.call))
        base = class_node(node.call)
        options = _options_of_class(node.call)
        if options:
            entry["options"] = options
    else:
        entry["stage"] = find_path(node.call, lambda other: _starts(other, node))
        base = find(entry["stage"])
    if changed := _changed(base.bound, node.bound):
        entry["bind"] = {name: _bound(value) for name, value in changed.items()}
    if changed := _changed(base.renamed, node.renamed):
        entry["writes"] = changed
    for option in OPTIONS:
        value = getattr(node, option)
        if value != getattr(base, option):
            entry[option] = _option(value)
    return entry if len(entry) > 1 else entry["stage"]


def _starts(other: Any, node: StageNode) -> bool:
    """Whether a stage can be made of another one by `bind` and `with_`."""
    if not isinstance(other, StageNode) or other.call != node.call:
        return False
    pairs = ((other.bound, node.bound), (other.renamed, node.renamed))
    return all(list(dict(new))[: len(old)] == list(dict(old)) for old, new in pairs)


def _changed(old: tuple[tuple[str, Any], ...], new: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    before = dict(old)
    return {key: value for key, value in new if key not in before or before[key] != value}


def _bound(value: Any) -> Any:
    return _literal(value.value) if isinstance(value, Literal) else _key(value)


def _option(value: Any) -> Any:
    if isinstance(value, Retry):
        return _retry(value)
    return to_plain(list(value) if isinstance(value, tuple) else value)


def _retry(retry: Retry) -> Any:
    """How often it is tried: a number where that is all."""
    if retry == Retry(retry.attempts):
        return retry.attempts
    usual = Retry(1)
    entry: Text = {"attempts": retry.attempts}
    for option in ("backoff", "max_backoff", "jitter"):
        if getattr(retry, option) != getattr(usual, option):
            entry[option] = getattr(retry, option)
    if retry.on is not Exception:
        kinds = retry.on if isinstance(retry.on, tuple) else (retry.on,)
        paths = [path_of(kind) for kind in kinds]
        entry["on"] = paths if isinstance(retry.on, tuple) else paths[0]
    return entry


def _options_of_class(stage: Stage) -> Text:
    """The fields that were given to a stage that is a class."""
    kind = type(stage)
    options: Text = {}
    for field in sorted(stage.model_fields_set, key=list(kind.model_fields).index):
        try:
            options[field] = _field(stage, field)
        except (Unwritable, PydanticSerializationError) as error:
            message = f"option {field!r} of {kind.__name__} cannot be written: {error}"
            raise Unwritable(message, "use numbers, texts and lists") from None
    if kind(**{field: from_plain(value) for field, value in options.items()}) != stage:
        raise Unwritable(f"the options of {kind.__name__} would not come back equal")
    return options


def _field(stage: Stage, field: str) -> Any:
    try:
        return to_plain(getattr(stage, field))
    except Unwritable:  # such as a path or a date, which pydantic knows how to write
        return to_plain(stage.model_dump(mode="json", include={field})[field])
