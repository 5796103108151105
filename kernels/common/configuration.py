"""What a Triton kernel is specialised on, when it is launched and when it is built ahead of time.

Torch-free and Triton-free, as is every kernels/<op>/builds.py that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, eq=False)
class Configuration:
    """One way to compile a kernel. Those who make them keep them, so one is equal to itself alone.

    Args:
        constants: values of its ``tl.constexpr`` arguments, by name.
        warps, stages: of 32 threads, and of the pipeline that hides loads.
    """

    constants: Mapping[str, int | bool | str]
    warps: int = 4
    stages: int = 3

    @property
    def key(self) -> str:
        """All of it in one line, by which a build is found again."""
        parts = {**self.constants, "warps": self.warps, "stages": self.stages}
        return " ".join(f"{name}={parts[name]}" for name in sorted(parts))


class Build(NamedTuple):
    """A kernel to compile ahead of time.

    Args:
        kernel: ``op.name``, of ``_name`` in kernels/<op>/triton_kernels.py.
        arguments: type of each argument that is no constant, by name. A pointer is ``*bf16``, a
            number ``i32``, ``i64`` or ``fp32``; with ``:16`` it is a multiple of 16 (a pointer: in
            bytes). ``i32=1`` is always 1, and ``none`` always None; these are not passed on.
        configuration: how it is compiled.
        architecture: one of `tuning.ARCHITECTURES`.
    """

    kernel: str
    arguments: Mapping[str, str]
    configuration: Configuration
    architecture: int


def arguments(**names: str) -> dict[str, str]:
    """Types by name from names by type: ``arguments(bf16="x w", i32="M", i32_16="N", one="s")``.

    Pointers are named without their ``_ptr`` and begin at a multiple of 16 bytes, those of
    ``<dtype>_any`` anywhere. ``one`` and ``none`` are an integer that is 1 and a pointer that is
    None.
    """
    types = {"i32": "i32", "i32_16": "i32:16", "i64_16": "i64:16", "real": "fp32", "one": "i32=1"}
    found = {}
    for kind, listed in names.items():
        for name in listed.split():
            if kind in types:
                found[name] = types[kind]
            elif kind == "none":
                found[f"{name}_ptr"] = "none"
            else:
                found[f"{name}_ptr"] = f"*{kind.removesuffix('_any')}" + (
                    "" if kind.endswith("_any") else ":16"
                )
    return found
