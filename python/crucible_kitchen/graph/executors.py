"""Where a stage runs: rules of `executor` and `timeout`, and what another process can find."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from crucible_kitchen.errors import Problem

from .checked import Checked, Rule
from .facts import Facts, TextRule
from .stage import StageNode


def is_async(node: StageNode) -> bool:
    """Whether a stage is awaited."""
    if node.of_class:
        return inspect.iscoroutinefunction(node.call.execute)
    return node.signature.is_async


def address(function: Callable[..., Any]) -> tuple[str, str]:
    """Module and qualified name under which another process finds a function.

    Raises:
        LookupError: it is not to be found there.
    """
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if "<" in name:
        raise LookupError(f"{name.rpartition('.')[2] or name} stands inside a function")
    home = sys.modules.get(module)
    if module == "__main__" and getattr(home, "__file__", None) is None:
        raise LookupError(f"{name} was typed in, it is in no file")
    found: Any = home
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, StageNode):
        found = found.call
    if found is not function:
        raise LookupError(f"{module}.{name} is something else")
    return module, name


def find(module: str, name: str) -> Callable[..., Any]:
    """The function of an `address`."""
    found: Any = sys.modules.get(module) or __import__(module, fromlist=["_"])
    for part in name.split("."):
        found = getattr(found, part)
    called: Callable[..., Any] = found.call if isinstance(found, StageNode) else found
    return called


def processes(checked: Checked) -> Iterator[Problem]:
    """A stage that cannot run in another process, as far as is known in this one."""
    for path, node in checked.facts.in_processes:
        for message, advice in _no_process(node):
            yield Problem("executor", path, message, node.source, advice)


def _no_process(node: StageNode) -> Iterator[tuple[str, str]]:
    if os.name != "posix":
        yield "runs in another process, which needs Linux or macOS", "leave out executor="
    if node.of_class:
        yield "is a class, which is handed the whole context", "make it a function with @stage"
        return
    try:
        address(node.call)
    except LookupError as error:
        yield f"another process cannot find it: {error}", "define it with `def` in a module"
    for port in node.ports:
        advice = "get what it needs from the port in a stage before, and pass it on by a key"
        yield f"uses {port}, whose adapter lives in this process", advice
    if node.signature.sees_context:
        yield "is handed the context, which holds adapters", "name the keys that it reads"


def executors(facts: Facts) -> Iterator[Problem]:
    """An ``async`` stage that is to run somewhere else than in the event loop."""
    for path, node in facts.stages:
        if node.executor is not None and is_async(node):
            message = (
                f"is async, so it runs in the event loop and not in executor={node.executor!r}"
            )
            yield Problem("executor", path, message, node.source, "make it `def`, or leave it out")


def timeouts(facts: Facts) -> Iterator[Problem]:
    """A timeout on a stage that cannot be interrupted."""
    for path, node in facts.stages:
        if node.timeout is None or is_async(node):
            continue
        if node.executor not in ("thread", "process"):
            message = "has a timeout, but only an async stage can be interrupted, or a process"
            advice = (
                'make it `async def`, or executor="process"; '
                'with executor="thread" the run goes on and the thread is left to itself'
            )
            yield Problem("timeout", path, message, node.source, advice)


def abandoned(node: StageNode) -> str:
    """What to know of a stage before it runs, where its timeout cannot end it; else empty."""
    if node.timeout is None or node.executor != "thread":
        return ""
    return "a thread cannot be ended: after its timeout it is left to itself, and may do more"


EXECUTOR_TEXT_RULES: tuple[TextRule, ...] = (executors, timeouts)
EXECUTOR_RULES: tuple[Rule, ...] = (processes,)
