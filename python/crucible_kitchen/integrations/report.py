"""What `patch` did to each module of a model, and how to take it back."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import nn

from crucible_kitchen.nn.forwards import Switch, take_forward

_COLUMNS = 80


@dataclass(frozen=True)
class Part:
    """One module, as `patch` left it.

    Args:
        path: its name in the model, empty for the model itself.
        module: name of its class.
        op: what computes it now, such as ``lora_linear``; None where it was left alone.
        kernel: ``cuda``, ``triton`` or ``cpu``, by the device it was on; None likewise.
        reason: why it was left alone; empty where it was not.
        note: what is another than before where it was not; mostly empty.
    """

    path: str
    module: str
    op: str | None = None
    kernel: str | None = None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class PatchReport:
    """What `patch` did. It prints as a table of 80 columns.

    Args:
        model: name of the model's class.
        parts: every module that computes something, in the model's order.
    """

    model: str
    parts: tuple[Part, ...]
    _modules: Sequence[nn.Module] = field(default=(), repr=False, compare=False)
    _switch: Switch = field(default_factory=Switch, repr=False, compare=False)

    @property
    def patched(self) -> tuple[Part, ...]:
        """The modules that our kernels compute."""
        return tuple(part for part in self.parts if part.op is not None)

    @property
    def left(self) -> tuple[Part, ...]:
        """The modules that were left alone, each with the reason."""
        return tuple(part for part in self.parts if part.op is None)

    @property
    def active(self) -> bool:
        """Whether the patch is in force: something was patched and `undo` was not called."""
        return bool(self._modules) and self._switch.on

    def undo(self) -> None:
        """Let every module run its own code again, bit for bit; again changes nothing.

        Also where somebody has wrapped a patched forward since (Accelerate, TRL): the wrapper
        stays, and what it wraps is the module's own code.
        """
        self._switch.on = False
        for module in self._modules:
            take_forward(module, self._switch)

    def __str__(self) -> str:
        said = f"{self.model}: our kernels compute {len(self.patched)} of {len(self.parts)} modules"
        lines = [said if self._switch.on else f"{said}, until undo() was called"]
        for part, paths in _alike(self.patched):
            lines += _row(f"{part.op} ({part.kernel})", part.module, paths, part.note)
        if self.left:
            lines.append("left alone:")
        for part, paths in _alike(self.left):
            lines += _row(part.module, "", paths, part.reason)
        return "\n".join(lines)


def _alike(parts: Iterable[Part]) -> list[tuple[Part, list[str]]]:
    """Parts that differ in their paths only, as one of them and all paths."""
    groups: dict[tuple[str | None, ...], tuple[Part, list[str]]] = {}
    for part in parts:
        key = (part.op, part.kernel, part.module, part.reason, part.note)
        groups.setdefault(key, (part, []))[1].append(part.path)
    return list(groups.values())


def _row(head: str, module: str, paths: list[str], said: str) -> list[str]:
    """``head  3 x module at layers.*.norm, norm: said``, wrapped."""
    text = f"{head:<27}{len(paths)} x {module}" if module else f"{len(paths)} x {head}"
    if where := ", ".join(dict.fromkeys(_starred(path) for path in paths if path)):
        text += f" at {where}"
    if said:
        text += f": {said}"
    return textwrap.wrap(
        text,
        _COLUMNS,
        initial_indent="  ",
        subsequent_indent="      ",
        break_on_hyphens=False,
    )


def _starred(path: str) -> str:
    """The path with a star for its numbers, and from the last thing before a layer's number on."""
    starred = re.sub(r"\.\d+(?=\.|$)", ".*", path)
    return starred.rpartition("layers.*.")[2] or starred
