"""Validation: each rule is a function that yields problems; all of them are reported together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from crucible_kitchen.context import as_mapping
from crucible_kitchen.errors import Problem, WorkflowError, did_you_mean
from crucible_kitchen.ports import PORTS, Ports
from crucible_kitchen.ports import find_problems as adapter_problems

from .after import after_rule
from .annotations import accepts, runtime_classes, show
from .block_rules import BLOCK_RULES
from .blocks import ERROR_KEYS, Block, Node, walk
from .checked import Checked, Rule, short
from .executors import EXECUTOR_RULES
from .flow import Use, Writer, analyse
from .keys import any_opaque, keys_written
from .loops import Loop
from .stage import StageNode
from .stage_rules import STAGE_RULES
from .together import FanOut
from .workflow import as_workflow


def find_problems(
    workflow: object, config: object = None, adapters: Mapping[str, Any] | Ports | None = None
) -> list[Problem]:
    """Everything that is wrong with a workflow, found without running it.

    Args:
        workflow: value or `Workflow` class.
        config: mapping or pydantic model; None leaves its keys unchecked.
        adapters: as for a run; None leaves the ports unchecked.
    """
    value = as_workflow(workflow)
    flow = analyse(value)
    fields = None if config is None else as_mapping(config)
    checked = Checked(
        value,
        tuple(walk(value)),
        flow,
        fields,
        config is not None and not isinstance(config, Mapping),
        adapters,
        frozenset(key for key in flow.writers if "[]" not in key) | frozenset(fields or ()),
    )
    found = (problem for rule in RULES for problem in rule(checked))
    return list(dict.fromkeys(found))


def validate(
    workflow: object, config: object = None, adapters: Mapping[str, Any] | Ports | None = None
) -> None:
    """Check a workflow, see `find_problems`.

    Raises:
        WorkflowError: with every problem.
    """
    problems = find_problems(workflow, config, adapters)
    if problems:
        raise WorkflowError(problems)


def declarations(checked: Checked) -> Iterator[Problem]:
    """Not a stage, unknown or bad options, signatures that cannot be read."""
    for path, node in checked.nodes:
        for code, message, advice, place in node.defects:
            yield Problem(code, path, message, place or node.source, advice)
        if isinstance(node, Block):
            for option, value in node.values:
                for code, message, advice, place in value.signature.defects:
                    where = place or value.source or node.source
                    yield Problem(code, path, f"{option}: {message}", where, advice)
                if option == "over" and value.kind == "literal" and not _iterable(value.of):
                    message = f"over must be iterable, got {value}"
                    advice = "a list, a range, a key, or a callable that gives one of these"
                    yield Problem("bad-option", path, message, node.source, advice)


def _iterable(value: object) -> bool:
    return hasattr(value, "__iter__") or hasattr(value, "__getitem__")


def blocks(checked: Checked) -> Iterator[Problem]:
    """Empty blocks, and names used twice."""
    for path, node in checked.nodes:
        if not isinstance(node, Block):
            continue
        for label, body in node.regions:
            if not body:
                what = f"{node.kind} {node.name!r}" + (f" .{label}" if label else "")
                yield Problem(
                    "empty-block",
                    path,
                    f"{what} is empty",
                    node.source,
                    "put stages in its brackets",
                )
        seen: dict[str, Node | None] = {label: None for label, _ in node.regions if label}
        for _, body in node.regions[:1]:
            yield from _twice(body, path, seen)
        for label, body in node.regions[1:]:
            yield from _twice(body, f"{path}/{label}", {})


def _twice(body: tuple[Node, ...], path: str, seen: dict[str, Node | None]) -> Iterator[Problem]:
    for node in body:
        if node.name in seen:
            first = seen[node.name]
            also = (
                f", also at {short(first.source)}"
                if first is not None
                else ", which is reserved here"
            )
            advice = "give one of them another name with .with_(name=...)"
            message = f"two nodes are called {node.name!r}{also}"
            yield Problem("duplicate-name", f"{path}/{node.name}", message, node.source, advice)
        seen.setdefault(node.name, node)


def nested_loops(checked: Checked) -> Iterator[Problem]:
    """A loop inside a loop of the same name would hide its variables."""

    def inside(node: Block, path: str, around: frozenset[str]) -> Iterator[Problem]:
        if isinstance(node, (Loop, FanOut)):
            if node.name in around:
                message = f"{node.kind} {node.name!r} is inside another loop of that name"
                yield Problem("duplicate-name", path, message, node.source, "rename one of them")
            around |= {node.name}
        for label, body in node.regions:
            for child in body:
                if isinstance(child, Block):
                    below = f"{path}/{label}" if label else path
                    yield from inside(child, f"{below}/{child.name}", around)

    yield from inside(checked.workflow, checked.workflow.name, frozenset())


def reads(checked: Checked) -> Iterator[Problem]:
    """Keys that nothing writes, that are written later, or only on some paths."""
    for use in checked.flow.uses:
        key = use.read.key
        loop_name = key.rpartition(".")[0]
        if key.endswith((".item", ".index")) and loop_name in checked.flow.loops:
            if loop_name not in use.loops:
                message = f"reads {key!r} outside of loop {loop_name!r}"
                yield Problem(
                    "outside-loop", use.path, message, use.source, "move it into the loop"
                )
        elif key in ERROR_KEYS and use.region != "on_error":
            message = f"reads {key!r} outside of .on_error"
            yield Problem("outside-on-error", use.path, message, use.source, "move it there")
        elif not _satisfied(use, checked):
            yield _unsatisfied(use, checked)


def _satisfied(use: Use, checked: Checked) -> bool:
    if use.status == "certain" or not use.read.required or use.after_opaque:
        return True
    if checked.config is None:
        # Its keys are unknown: one that no stage writes is taken to be in it.
        return use.status == "never"
    return use.read.key in checked.config


def _unsatisfied(use: Use, checked: Checked) -> Problem:
    key = use.read.key
    writers = next((w for k in use.keys if (w := checked.flow.writers.get(k))), [])
    written = ", ".join(f"{w.name} ({short(w.source)})" for w in writers)
    if use.status == "some-paths" and use.region:
        message = f"reads {key!r}, which is not there when the run fails before {written} has run"
        advice = f"give the parameter {use.read.param!r} a default"
        return Problem("maybe-unwritten", use.path, message, use.source, advice)
    if use.status == "some-paths":
        message = f"reads {key!r}, which is written only on some paths to it, by {written}"
        advice = f"write it before, or give the parameter {use.read.param!r} a default"
        return Problem("maybe-unwritten", use.path, message, use.source, advice)
    if use.status == "later":
        message = f"reads {key!r} before it is written by {written}"
        return Problem("read-before-write", use.path, message, use.source, "move the writer up")
    known = checked.known_keys | {
        v for loop in use.loops for v in (f"{loop}.item", f"{loop}.index")
    }
    # Written in a scope or collected by a fan_out: the same key behind the block's name.
    near = next((name for name in sorted(known) if name.endswith(f".{key}")), "")
    advice = f"did you mean {near!r}?" if near else did_you_mean(key, known)
    if not near and advice.startswith("did you mean"):
        near = advice.split("'")[1]
    for writer in checked.flow.writers.get(near, [])[:1]:
        advice = f"did you mean {near!r}, written by {writer.name} ({short(writer.source)})?"
    advice = advice or f"write it in a stage before, or pass {key!r} in the config"
    message = f"reads {key!r}, which no stage writes and the config does not have"
    return Problem("unknown-key", use.path, message, use.source, advice)


def types(checked: Checked) -> Iterator[Problem]:
    """Values whose declared type cannot be what their reader declares."""
    # A key may have many writers of few types: compare each pair of types once.
    groups: dict[str, dict[int, list[Writer]]] = {}
    for key, writers in checked.flow.writers.items():
        for writer in writers:
            groups.setdefault(key, {}).setdefault(id(writer.type), []).append(writer)
    fits: dict[tuple[int, int], bool] = {}
    for use in checked.flow.uses:
        found = [groups[key] for key in use.keys if key in groups]
        # Of a scope's own key and one outside, which is read is known only when it runs.
        for kind, group in found[0].items() if len(found) == 1 else ():
            pair = (id(use.read.type), kind)
            if pair not in fits:
                fits[pair] = accepts(use.read.type, group[0].type)
            for writer in group if not fits[pair] else ():
                message = (
                    f"reads {use.read.key!r} as {show(use.read.type)}, but {writer.name} "
                    f"({short(writer.source)}) writes {show(writer.type)}"
                )
                advice = "let them agree, or read or write another key: .bind(...)"
                yield Problem("type-mismatch", use.path, message, use.source, advice)
        if checked.config is not None and use.read.key in checked.config:
            classes = runtime_classes(use.read.type)
            given = checked.config[use.read.key]
            if classes is not None and not isinstance(given, classes):
                # The type only: the value may be a secret.
                message = (
                    f"reads config {use.read.key!r} as {show(use.read.type)}, "
                    f"got {type(given).__name__}"
                )
                advice = f"pass a {show(use.read.type)} in the config"
                yield Problem("config-type", use.path, message, use.source, advice)


def config_keys(checked: Checked) -> Iterator[Problem]:
    """Keys written over the configuration, and configuration keys that look misspelt."""
    config = checked.config or {}
    for writers in checked.flow.writers.values():
        for writer in writers:
            key = writer.declared
            if key in config:
                message = f"writes {key!r}, which is a key of the config"
                yield Problem(
                    "shadows-config",
                    writer.path,
                    message,
                    writer.source,
                    "write another key: .bind(writes=...)",
                )
    if checked.closed or checked.flow.reads_anything:
        return  # a schema has refused unknown keys, or somebody may read any of them
    read = checked.flow.keys_read()
    for key in config:
        advice = did_you_mean(key, read - set(config)) if key not in read else ""
        if advice.startswith("did you mean"):
            message = f"config has {key!r}, which nothing reads"
            where, source = checked.workflow.name, checked.workflow.source
            yield Problem("unknown-config-key", where, message, source, advice)


def endless_loops(checked: Checked) -> Iterator[Problem]:
    """A ``while_`` or ``stop_when`` that nothing in the body can change."""
    for path, node in checked.nodes:
        if not isinstance(node, Loop):
            continue
        if node.over is not None or node.max_iterations is not None:
            continue
        for option, predicate in node.values:
            if option not in ("while_", "stop_when"):
                continue
            if predicate.signature.injected or any_opaque(node.body):
                continue
            if predicate.of is (option == "stop_when"):  # no iteration at all
                continue
            keys = [read.key for read in predicate.reads]
            if not set(keys) & set(keys_written(node.body)):
                asks = f"reads {', '.join(map(repr, keys))}, which" if keys else "reads no key that"
                message = (
                    f"{option}={predicate} {asks} no stage of the body writes: it can never change"
                )
                advice = "or bound it: max_iterations="
                if option == "stop_when":
                    advice = "or stop_when=None, where the producer raises StopIteration"
                yield Problem("endless-loop", path, message, node.source, advice)


def ports(checked: Checked) -> Iterator[Problem]:
    """Ports without adapter, and adapters that are none."""
    adapters = checked.adapters
    for path, node in checked.nodes:
        if isinstance(node, StageNode):
            yield from _ports_of(path, node, node.source, node.ports, checked)
        elif isinstance(node, Block):
            for _, value in node.values:
                used = tuple(i.role for i in value.signature.injected if i.is_port)
                yield from _ports_of(path, node, value.source or node.source, used, checked)
    if adapters is not None and not isinstance(adapters, Ports):
        yield from _of_adapters(adapters, checked)


def _of_adapters(adapters: Mapping[str, Any], checked: Checked) -> Iterator[Problem]:
    """What is wrong with adapters, at the first stage that uses them."""
    users: dict[str, tuple[str, str]] = {}
    found = adapter_problems(adapters)
    for path, node in checked.nodes if found else ():
        for port in node.ports if isinstance(node, StageNode) else ():
            users.setdefault(port, (path, node.source))
    for problem in found:
        port = problem.path
        path, source = users.get(port, (checked.workflow.name, checked.workflow.source))
        yield replace(problem, path=path, message=f"{port}: {problem.message}", source=source)


def _ports_of(
    path: str, node: Node, source: str, used: tuple[str, ...], checked: Checked
) -> Iterator[Problem]:
    optional = set()
    if isinstance(node, StageNode):
        optional = {i.role for i in node.signature.injected if not i.required}
    for name in used:
        if name not in PORTS:
            yield Problem(
                "unknown-port",
                path,
                f"uses an unknown port {name!r}",
                source,
                did_you_mean(name, PORTS),
            )
        elif checked.adapters is not None and name not in checked.adapters and name not in optional:
            message = f"uses {name}, which has no adapter"
            advice = f"pass adapters={{{name!r}: ...}}, a {PORTS[name].__name__}"
            yield Problem("missing-adapter", path, message, source, advice)


RULES: tuple[Rule, ...] = (
    declarations,
    blocks,
    nested_loops,
    reads,
    types,
    config_keys,
    endless_loops,
    after_rule,
    *EXECUTOR_RULES,
    ports,
    *BLOCK_RULES,
    *STAGE_RULES,
)
