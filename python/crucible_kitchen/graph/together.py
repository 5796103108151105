"""Blocks with a state of their own inside: `parallel`, `fan_out` and `scope`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .blocks import MISSING, Block, caller, count_defects, name_defects, unknown_options
from .signature import Defect
from .values import Value, as_value


@dataclass(frozen=True)
class Parallel(Block):
    """Runs its members at once; see `parallel`."""

    kind: ClassVar[str] = "parallel"

    max_concurrency: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.max_concurrency is None else {"max_concurrency": self.max_concurrency}


@dataclass(frozen=True)
class FanOut(Block):
    """Runs a copy of its body for each item, all at once; see `fan_out`."""

    kind: ClassVar[str] = "fan_out"

    over: Value = field(default_factory=lambda: Value("literal", ()))
    collect: tuple[tuple[str, str], ...] = ()
    max_concurrency: int | None = None

    @property
    def variables(self) -> tuple[str, str]:
        """Keys that exist inside only: the item and its index."""
        return f"{self.name}.item", f"{self.name}.index"

    @property
    def values(self) -> tuple[tuple[str, Value], ...]:
        return (("over", self.over),)

    @property
    def options(self) -> dict[str, Any]:
        limit = {} if self.max_concurrency is None else {"max_concurrency": self.max_concurrency}
        return {"collect": dict(self.collect), **limit}


@dataclass(frozen=True)
class Scope(Block):
    """A body with its own names; see `scope`."""

    kind: ClassVar[str] = "scope"

    @property
    def prefix(self) -> str:
        """What stands before a key of the scope where it is named from outside."""
        return f"{self.name}."

    @property
    def hides(self) -> tuple[str, ...]:
        """Beginnings of keys that mean scopes inside it, and not what is called so outside."""
        return tuple({inner.prefix: None for inner in _scopes_in(self)})


def _scopes_in(block: Block) -> Iterator[Scope]:
    """Scopes in a body at any depth, but not in each other."""
    for _, body in block.regions:
        for node in body:
            if isinstance(node, Scope):
                yield node
            elif isinstance(node, Block):
                yield from _scopes_in(node)


def parallel(name: str, *, max_concurrency: int | None = None, **unknown: Any) -> Parallel:
    """Run the members at once, which must be independent: ``parallel("evals")[train, val]``.

    Validation refuses members of which one reads or writes what another writes, or two that use the
    same port where it takes one stage at a time. Each starts from the state before the block, and
    what they write is joined in the order of the text, so any concurrency gives the same result.

    When a member fails, those that have not started do not start, those behind it are cancelled
    where they are ``async`` or processes, all are waited for, and the error is that of the first
    failed member in the order of the text.

    Args:
        name: part of the paths inside.
        max_concurrency: how many run at once; all of them where left out.
        **unknown: reported by validation.
    """
    wrong = count_defects("max_concurrency", max_concurrency, 1)
    unknowns = unknown_options("parallel", unknown, ("max_concurrency",))
    return Parallel(
        str(name),
        source=caller(1),
        defects=(*name_defects("parallel", name), *wrong, *unknowns),
        max_concurrency=None if wrong else max_concurrency,
    )


def fan_out(
    name: str,
    *,
    over: Any = MISSING,
    collect: str | Sequence[str] | Mapping[str, str] = (),
    max_concurrency: int | None = None,
    **unknown: Any,
) -> FanOut:
    """Run one copy of the body per item: ``fan_out("sweep", over=rates, collect="loss")[train]``.

    Each copy starts from the state before the block, with ``<name>.item`` and ``<name>.index``, and
    sees nothing of the others. What a copy writes is forgotten, except what is collected: lists in
    the order of the items. `over` is read to its end before the first copy starts.

    Args:
        name: part of the paths inside.
        over: callable whose parameters are keys, key, or iterable.
        collect: key of the body -> key of the list; keys alone are listed as ``<name>.<key>``.
        max_concurrency: how many copies run at once; where left out, a few more than there are
            processors.
        **unknown: reported by validation.
    """
    defects = list(name_defects("fan_out", name))
    if over is MISSING:
        defects.append(Defect("bad-option", "a fan_out needs over=", "what it makes copies for"))
    pairs, wrong_pairs = _collected(str(name), collect)
    wrong = count_defects("max_concurrency", max_concurrency, 1)
    known = ("over", "collect", "max_concurrency")
    defects += [*wrong_pairs, *wrong, *unknown_options("fan_out", unknown, known)]
    return FanOut(
        str(name),
        source=caller(1),
        defects=tuple(defects),
        over=as_value(() if over is MISSING else over, 2),
        collect=pairs,
        max_concurrency=None if wrong else max_concurrency,
    )


def _collected(name: str, collect: Any) -> tuple[tuple[tuple[str, str], ...], tuple[Defect, ...]]:
    """Pairs of a key of the body and the key of its list, and what is wrong with them."""
    if isinstance(collect, Mapping):
        pairs = tuple(collect.items())
    elif isinstance(collect, (str, list, tuple)):
        keys = (collect,) if isinstance(collect, str) else tuple(collect)
        pairs = tuple((key, f"{name}.{key}") for key in keys)
    else:
        pairs = ((collect, None),)
    if all(isinstance(text, str) for pair in pairs for text in pair):
        return pairs, ()
    message = f"collect must be a key, keys, or a mapping of keys to keys, got {collect!r}"
    return (), (Defect("bad-option", message, 'such as collect="loss"'),)


def scope(name: str) -> Scope:
    """A workflow inside a workflow: ``scope("teacher")[load.body]``.

    Inside, stages read and write under their own names, and what is not written inside is read from
    outside. Outside, what was written inside is called ``<name>.<key>``, and nothing else changes,
    so that the same stages can stand in two scopes side by side. A name belongs to the nearest
    scope: what one outside has written is not read by one of the same name inside another.

    Args:
        name: part of the paths inside, and of the keys seen from outside.
    """
    return Scope(str(name), source=caller(1), defects=name_defects("scope", name))
