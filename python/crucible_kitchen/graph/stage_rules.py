"""Rules of single stages: ``cache=``."""

from __future__ import annotations

from collections.abc import Iterator

from crucible_kitchen.errors import Problem

from .facts import Facts, TextRule
from .stage import StageNode


def cacheable(facts: Facts) -> Iterator[Problem]:
    """``cache=True`` on a stage that depends on more than its inputs and its code."""
    for path, node in facts.stages:
        if node.cache:
            message, advice = _uncacheable(node)
            if message:
                yield Problem("cannot-cache", path, message, node.source, advice)


def _uncacheable(node: StageNode) -> tuple[str, str]:
    """Why a stage cannot be cached, and what to do about it; empty where it can."""
    if node.of_class:
        return "is cached, but a class is handed the whole context", "write it as a function"
    if node.ports:
        advice = "cache a stage behind it that only works on what it gives"
        return f"is cached, but what {node.ports[0]} answers is not in its inputs", advice
    if node.signature.sees_context:
        return "is cached, but may read anything from its context", "name the keys that it reads"
    if not node.writes:
        return "is cached, but writes no key that could be kept", "leave cache=True out"
    return "", ""


STAGE_RULES: tuple[TextRule, ...] = (cacheable,)
