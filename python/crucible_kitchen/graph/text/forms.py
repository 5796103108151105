"""How each block is written: the table that reading and writing share.

A block is a mapping whose first key is its kind: ``loop: epochs``. A new kind of block needs one
line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from crucible_kitchen.graph.blocks import Block
from crucible_kitchen.graph.branches import case, switch, when
from crucible_kitchen.graph.loops import async_loop, loop, stream_loop
from crucible_kitchen.graph.together import fan_out, parallel, scope


@dataclass(frozen=True)
class Form:
    """What a kind of block can be told.

    Args:
        make: its constructor, which also says what is wrong with an option.
        head: what stands behind its kind: ``name``, or the option that it asks for.
        values: options that are a callable, a key or a literal.
        plain: options that are numbers, texts and mappings of them.
        bodies: its bodies beside the main one.
    """

    make: Callable[..., Block]
    head: str = "name"
    values: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    bodies: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Every key beside its kind, as it is written."""
        name = () if self.head == "name" else ("name",)
        return (*name, *map(written, (*self.values, *self.plain)), "body", *self.bodies)


def written(option: str) -> str:
    """An option's name without the underscore that Python needs: ``while_``."""
    return option.rstrip("_")


def _case(matches: Any) -> Block:
    return case(*matches)


FORMS: Final[Mapping[str, Form]] = MappingProxyType(
    {
        "loop": Form(loop, values=("over", "while_"), plain=("max_iterations",)),
        "stream_loop": Form(stream_loop, values=("over",), plain=("prefetch",)),
        "async_loop": Form(
            async_loop, values=("producer", "stop_when"), plain=("buffer", "max_staleness")
        ),
        "when": Form(when, head="predicate", bodies=("otherwise",)),
        "switch": Form(switch, head="on", bodies=("otherwise",)),
        "case": Form(_case, head="matches"),
        "parallel": Form(parallel, plain=("max_concurrency",)),
        "fan_out": Form(fan_out, values=("over",), plain=("collect", "max_concurrency")),
        "scope": Form(scope),
    }
)
"""Kind of block -> how it is written."""
