"""Predicates and iterables: a callable, a key, or a literal, all read in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .signature import Defect, Read, Signature, read_signature


@dataclass(frozen=True)
class Value:
    """Something that is known only when the workflow runs.

    Args:
        kind: ``call``, ``key`` or ``literal``.
        of: the callable, the key or the literal.
        signature: of the callable.
        source: ``file:line`` of the callable.
    """

    kind: str
    of: Any
    signature: Signature = field(default_factory=Signature, compare=False)
    source: str = field(default="", compare=False)

    def __hash__(self) -> int:
        return hash((self.kind, self.of)) if self.kind != "literal" else hash(self.kind)

    @property
    def reads(self) -> tuple[Read, ...]:
        """Keys it reads."""
        return (Read(self.of, self.of),) if self.kind == "key" else self.signature.reads

    @property
    def name(self) -> str:
        """A name for the block that asks for it; empty where it has none."""
        if self.kind == "key":
            return str(self.of).replace(".", "_")
        given = getattr(self.of, "__name__", "") if self.kind == "call" else ""
        return "" if given == "<lambda>" else given

    def __str__(self) -> str:
        if self.kind == "literal":
            return repr(self.of)
        return self.name or "lambda"


def as_value(given: object, depth: int) -> Value:
    """A callable, a key's name or a literal as a `Value`.

    Args:
        given: what the user wrote.
        depth: frames between this call and the user's.
    """
    if isinstance(given, Value):
        return given
    if isinstance(given, str):
        return Value("key", given)
    if callable(given) and not isinstance(given, type):
        signature = read_signature(given, returns_writes=False, depth=depth + 1)
        return Value("call", given, signature, code_location(given))
    if isinstance(given, type):
        defect = Defect("bad-signature", f"{given.__name__} is a class", "wrap it in a lambda")
        return Value("literal", given, Signature(defects=(defect,)))
    return Value("literal", given)


def code_location(function: Callable[..., Any]) -> str:
    """``file:line`` of a function's code, empty for what is not written in Python."""
    inner = getattr(function, "__wrapped__", function)
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""
