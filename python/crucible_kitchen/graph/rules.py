"""Validation: each rule is a function that yields problems; all of them are reported together.

Rules of the text are asked once for each workflow, those of a configuration and of adapters once
for each run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from crucible_kitchen.context import as_mapping
from crucible_kitchen.errors import Problem, WorkflowError, did_you_mean
from crucible_kitchen.ports import PORTS, Ports
from crucible_kitchen.ports import find_problems as adapter_problems

from .after import after_rule
from .annotations import runtime_classes, show
from .block_rules import BLOCK_RULES, BLOCK_TEXT_RULES
from .blocks import Block, Node
from .checked import Checked, Rule, short
from .executors import EXECUTOR_RULES, EXECUTOR_TEXT_RULES
from .facts import TextRule, facts_of
from .flow import Use
from .stage import StageNode
from .stage_rules import STAGE_RULES
from .text_rules import TEXT_RULES
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
    facts = facts_of(value)
    if facts.problems is None:
        found = (problem for rule in EVERY_TEXT_RULE for problem in rule(facts))
        facts.problems = tuple(dict.fromkeys(found))
    fields = None if config is None else as_mapping(config)
    closed = config is not None and not isinstance(config, Mapping)
    checked = Checked(value, facts, fields, closed, adapters)
    more = (problem for rule in RULES for problem in rule(checked))
    return list(dict.fromkeys([*facts.problems, *more]))


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


def reads(checked: Checked) -> Iterator[Problem]:
    """Keys that nothing writes, that are written later, or only on some paths."""
    for use in checked.facts.open_uses:
        if checked.config is None:
            # Its keys are unknown: one that no stage writes is taken to be in it.
            satisfied = use.status == "never"
        else:
            satisfied = use.read.key in checked.config
        if not satisfied:
            yield _unsatisfied(use, checked)


def _unsatisfied(use: Use, checked: Checked) -> Problem:
    key = use.read.key
    writers = next((w for k in use.keys if (w := checked.facts.flow.writers.get(k))), [])
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
    for writer in checked.facts.flow.writers.get(near, [])[:1]:
        advice = f"did you mean {near!r}, written by {writer.name} ({short(writer.source)})?"
    advice = advice or f"write it in a stage before, or pass {key!r} in the config"
    message = f"reads {key!r}, which no stage writes and the config does not have"
    return Problem("unknown-key", use.path, message, use.source, advice)


def config_types(checked: Checked) -> Iterator[Problem]:
    """Values of the configuration that cannot be what their reader declares."""
    for key, given in (checked.config or {}).items():
        for use in checked.facts.uses.get(key, ()):
            classes = runtime_classes(use.read.type)
            if classes is not None and not isinstance(given, classes):
                # The type only: the value may be a secret.
                message = (
                    f"reads config {key!r} as {show(use.read.type)}, got {type(given).__name__}"
                )
                advice = f"pass a {show(use.read.type)} in the config"
                yield Problem("config-type", use.path, message, use.source, advice)


def config_keys(checked: Checked) -> Iterator[Problem]:
    """Keys written over the configuration, and configuration keys that look misspelt."""
    config, facts = checked.config or {}, checked.facts
    for key in config:
        for writer in facts.declared.get(key, ()):
            message = f"writes {key!r}, which is a key of the config"
            advice = "write another key: .bind(writes=...)"
            yield Problem("shadows-config", writer.path, message, writer.source, advice)
    if checked.closed or facts.flow.reads_anything:
        return  # a schema has refused unknown keys, or somebody may read any of them
    for key in config:
        if key in facts.uses:
            continue
        advice = did_you_mean(key, facts.uses.keys() - set(config))
        if advice.startswith("did you mean"):
            message = f"config has {key!r}, which nothing reads"
            where, source = checked.workflow.name, checked.workflow.source
            yield Problem("unknown-config-key", where, message, source, advice)


def ports(checked: Checked) -> Iterator[Problem]:
    """Ports without adapter, and adapters that are none."""
    adapters = checked.adapters
    for path, node in checked.facts.nodes if checked.facts.ports else ():
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
    for path, node in checked.facts.stages if found else ():
        for port in node.ports:
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


EVERY_TEXT_RULE: tuple[TextRule, ...] = (
    *TEXT_RULES,
    after_rule,
    *EXECUTOR_TEXT_RULES,
    *BLOCK_TEXT_RULES,
    *STAGE_RULES,
)
RULES: tuple[Rule, ...] = (reads, config_types, config_keys, *EXECUTOR_RULES, ports, *BLOCK_RULES)
