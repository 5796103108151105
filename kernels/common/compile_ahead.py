"""Compiles Triton kernels into cubins, without a GPU and without torch, for CMake and for tests.

    python kernels/common/compile_ahead.py --out FOLDER --architectures 80 90 100

writes FOLDER/cubins.bin, all images, and FOLDER/cubins.cpp, the table that kernels/common/cubins.h
describes. What has not changed since the last time is taken from FOLDER/known.
"""

# Triton is not annotated.
# mypy: disable-error-code="no-untyped-call,no-any-return"

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import sys
import types
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

KERNELS = Path(__file__).resolve().parents[1]
PACKAGE = "crucible_kitchen.kernels"


class _Here(MetaPathFinder):
    """Finds our modules in this tree, before an editable install finds another tree's."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return PathFinder.find_spec(name, path) if name.startswith(f"{PACKAGE}.") else None


def mount() -> None:
    """Make kernels/ importable as the package that the wheel makes of it."""
    sys.meta_path.insert(0, _Here())
    for name, path in ((PACKAGE.split(".")[0], []), (PACKAGE, [str(KERNELS)])):
        module = types.ModuleType(name)
        module.__path__ = path
        sys.modules[name] = module


if __name__ == "__main__":
    mount()

from crucible_kitchen.kernels.common.configuration import Build  # noqa: E402

OPS = (
    "lora_linear",
    "lora_linear_many",
    "linear_logprobs",
    "rms_norm",
    "swiglu",
    "rope",
    "varlen_attention",
)
DTYPES = ("bf16", "fp16", "fp32")


class Compiled(NamedTuple):
    """A cubin and how to launch it; units as in cubins.h."""

    image: bytes
    symbol: str
    threads: int
    shared: int


def all_builds(architectures: Sequence[int], only: str = "") -> list[Build]:
    """Each op's `builds`, the most specialised first; `only` is a pattern of their names."""
    named: dict[str, Build] = {}  # two dtypes may share a kernel that has none
    for op in OPS:
        module = importlib.import_module(f"{PACKAGE}.{op}.builds")
        for architecture in architectures:
            for dtype in DTYPES:
                named |= {name_of(build): build for build in module.builds(dtype, architecture)}
    return [build for name, build in named.items() if re.search(only, name)]


def name_of(build: Build) -> str:
    """Kernel, architecture, configuration and types in one line; no two builds share one."""
    typed = " ".join(f"{name}:{build.arguments[name]}" for name in sorted(build.arguments))
    return f"{build.kernel} sm_{build.architecture} {build.configuration.key} {typed}"


def function_of(kernel: str) -> Any:
    """The jitted function of ``op.name``."""
    op, name = kernel.split(".")
    return getattr(importlib.import_module(f"{PACKAGE}.{op}.triton_kernels"), f"_{name}")


def in_order(build: Build) -> dict[str, str]:
    """The types of all arguments that are no constants, in the kernel's order.

    Raises:
        ValueError: the build has too many or too few.
    """
    constants = build.configuration.constants
    names = [name for name in function_of(build.kernel).arg_names if name not in constants]
    if set(names) != build.arguments.keys():
        raise ValueError(
            f"{build.kernel}: types must be of {sorted(names)}, got {sorted(build.arguments)}"
        )
    return {name: build.arguments[name] for name in names}


def compile_build(build: Build) -> Any:
    """What Triton makes of it: `asm`, by kind, and `metadata`."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    knobs.compilation.disable_line_info = True  # it holds paths
    given, configuration = in_order(build), build.configuration
    signature: dict[str, str] = {}
    constants: dict[str, Any] = dict(configuration.constants)
    attributes = {}
    for i, name in enumerate(function_of(build.kernel).arg_names):
        kind = given.get(name, "constexpr")
        if kind in ("none", "i32=1"):
            constants[name], kind = None if kind == "none" else 1, "constexpr"
        signature[name], _, multiple = kind.partition(":")
        if multiple:
            attributes[(i,)] = [["tt.divisibility", int(multiple)]]
    return triton.compile(
        ASTSource(function_of(build.kernel), signature, constants, attributes),
        target=GPUTarget("cuda", build.architecture, 32),
        options={
            "num_warps": configuration.warps,
            "num_stages": configuration.stages,
            "enable_fp_fusion": True,
        },
    )


def compiled(build: Build) -> Compiled:
    """The cubin of a build.

    Raises:
        RuntimeError: it wants what csrc/driver.cpp does not give it.
    """
    made = compile_build(build)
    meta = made.metadata
    if meta.global_scratch_size or meta.profile_scratch_size or meta.num_ctas != 1:
        raise RuntimeError(f"{name_of(build)}: it wants scratch memory or a cluster of blocks")
    if meta.launch_cooperative_grid or meta.launch_pdl:
        raise RuntimeError(f"{name_of(build)}: it wants a launch of a special kind")
    return Compiled(made.asm["cubin"], meta.name, meta.num_warps * meta.warp_size, meta.shared)


def _known(build: Build, folder: Path) -> Path:
    """Where a cubin is kept, by all that it depends on; a kernel's key has what it calls, too."""
    from triton import __version__

    parts = (__version__, name_of(build), function_of(build.kernel).cache_key)
    return folder / hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _make(build: Build, folder: Path) -> Compiled:
    at = _known(build, folder)
    described, image = at.with_suffix(".json"), at.with_suffix(".cubin")
    if described.exists():
        return Compiled(image.read_bytes(), **json.loads(described.read_text()))
    made = compiled(build)
    image.write_bytes(made.image)
    partial = at.with_suffix(f".{os.getpid()}")  # a build that is stopped leaves no half of one
    partial.write_text(json.dumps({k: v for k, v in made._asdict().items() if k != "image"}))
    partial.replace(described)
    return made


def write_table(made: Sequence[tuple[Build, Compiled]], out: Path) -> None:
    """cubins.bin and cubins.cpp; an image that two builds share is written once."""
    places: dict[bytes, int] = {}
    images = b""
    rows = []
    for build, cubin in made:
        if cubin.image not in places:
            images += bytes(-len(images) % 16)
            places[cubin.image] = len(images)
            images += cubin.image
        strings = (build.configuration.key, " ".join(in_order(build).values()), cubin.symbol)
        quoted = ", ".join(json.dumps(string) for string in strings)
        rows.append(
            f"    {{{json.dumps(build.kernel)}, {build.architecture}, {quoted}, {cubin.threads}, "
            f"{cubin.shared}, {places[cubin.image]}, {len(cubin.image)}}},"
        )
    (out / "cubins.bin").write_bytes(images)
    (out / "cubins.cpp").write_text(_TABLE % (json.dumps(str(out / "cubins.bin")), "\n".join(rows)))


_TABLE = """// Written by kernels/common/compile_ahead.py.
#include "kernels/common/cubins.h"

// The assembler reads the images: a compiler would take minutes over an array of them.
__asm__(R"(
.pushsection .rodata
.balign 16
crucible_cubin_images:
.incbin %s
.byte 0
.popsection
)");

namespace crucible {
namespace {

extern "C" __attribute__((visibility("hidden"))) const unsigned char crucible_cubin_images[];

const Cubin kCubins[] = {
%s
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const Cubins crucible_cubins = {
    kCubins, sizeof kCubins / sizeof *kCubins, crucible_cubin_images};

}  // namespace crucible
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description="Compile Triton kernels ahead of time.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architectures", type=int, nargs="+", required=True)
    parser.add_argument("--only", default="", help="a pattern of what to compile; all of it")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(argv)
    builds = all_builds(options.architectures, options.only)
    known = options.out.resolve() / "known"
    known.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        made = list(pool.map(_make, builds, [known] * len(builds), chunksize=4))
    write_table(list(zip(builds, made, strict=True)), options.out.resolve())
    size = sum(len(cubin.image) for cubin in made)
    print(f"{len(made)} kernels compiled ahead of time, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
