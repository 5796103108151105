"""Triton kernels compiled for GPUs this machine does not have; no register may spill.

The kernels' tests under the interpreter say what they compute; this says that they fit.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import INTERPRETED

pytest.importorskip("triton")
if INTERPRETED:
    pytest.skip("an interpreted kernel cannot be compiled", allow_module_level=True)

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.adamw_step import triton_kernels as adamw
from crucible_kitchen.kernels.common import compile_ahead
from crucible_kitchen.kernels.common.configuration import (
    Build,
    Configuration,
    arguments,
)
from crucible_kitchen.kernels.common.tuning import ARCHITECTURES
from crucible_kitchen.kernels.grad_norm import triton_kernels as total
from crucible_kitchen.kernels.linear_logprobs import builds as logprobs
from crucible_kitchen.kernels.lora_linear import builds as lora

# Bytes a block may take: of sm_80, what its cubins find on sm_86 and sm_89 too.
SHARED_MEMORY = {80: 99 << 10, 90: 227 << 10, 100: 227 << 10}
# A compilation takes a second: those that ask most of the registers are compiled, and one of each
# op for each architecture; CRUCIBLE_COMPILE_ALL=1 is for all that a wheel is built with.
EVERYTHING = os.environ.get("CRUCIBLE_COMPILE_ALL") == "1"
HEAVIEST = (
    (80, "lora_linear.multiply .*BIAS=True .*BLOCK_R=16 .*DROP=x .*x_ptr:.bf16"),
    (90, "lora_linear.multiply .*BLOCK_R=128 .*DROP=y .*x_ptr:.bf16"),
    (100, "lora_linear.multiply .*BLOCK_R=128 .*DROP=y .*x_ptr:.bf16"),
    (80, "lora_linear.multiply .*BLOCK_R=64 .*DROP=y .*x_ptr:.bf16"),
    (90, "lora_linear.multiply .*BIAS=True .*DROP=x .*x_ptr:.fp32"),
    (80, "lora_linear.rank_gradient .*BLOCK_R=128 .*DROP=True .*x_ptr:.bf16"),
    (90, "lora_linear.rank_gradient .*BLOCK_R=16 .*DROP=True .*x_ptr:.fp32"),
    (80, "lora_linear_many.multiply .*BLOCK_R=32 .*DROP=x .*x_ptr:.bf16"),
    (90, "lora_linear_many.multiply .*BLOCK_R=16 .*DROP=y .*x_ptr:.fp32"),
    (100, "lora_linear_many.multiply .*BLOCK_R=128 .*DROP=x .*x_ptr:.bf16"),
    (80, "lora_linear_many.rank_gradient .*BLOCK_R=128 .*DROP=True .*x_ptr:.bf16"),
    (80, "linear_logprobs.score .*STORE=True TOTALS=True .*x_ptr:.fp32"),
    (90, "linear_logprobs.score .*STORE=True TOTALS=True .*x_ptr:.bf16"),
    (100, "linear_logprobs.(gather_slope|gather_head) .*_ptr:.bf16"),
    (90, "rms_norm.(forward|grad_x) .*BLOCK=4096 .*x_ptr:.bf16"),
    (90, "rms_norm.grad_weight .*x_ptr:.bf16"),
    (80, "rms_norm.forward .*BLOCK=4096 .*x_ptr:.fp32"),
    (100, "rms_norm.grad_weight .*x_ptr:.fp32"),
    (90, "varlen_attention.* BLOCK_D=128 .*q_ptr:.bf16"),
    (80, "varlen_attention.grad_kv BLOCK_D=(64|128) .*q_ptr:.bf16"),
    (80, "varlen_attention.grad_q BLOCK_D=128 .*q_ptr:.bf16"),
    (100, "varlen_attention.grad_kv BLOCK_D=128 .*q_ptr:.bf16"),
    *((at, "swiglu.backward .*up_ptr:.bf16") for at in ARCHITECTURES),
    *((at, "rope.rotate BLOCK=64 .*x_ptr:.bf16") for at in ARCHITECTURES),
)


def _not_built_ahead() -> Iterator[Build]:
    """What Triton compiles on first use only: many tensors in one launch, and logit softcaps."""
    floats = "beta1 one_minus_beta1 beta2 one_minus_beta2 decay eps grad_scale max_norm"
    for architecture in ARCHITECTURES:
        types = arguments(i32="seed_key", real=floats)
        types |= dict.fromkeys(("like_param", "like_grad"), "*bf16:16") | {
            "like_moment": "*fp32:16", "corrections": "*fp32:16", "norm": "*fp64:16",
        }  # fmt: skip
        types |= dict.fromkeys(("addresses", "sizes", "blocks"), "*i64:16")
        configuration = Configuration({"GUARDED": True, "STOCHASTIC": True, "BLOCK": adamw._BLOCK})
        yield Build("adamw_step.update", types, configuration, architecture)
        types = {"like": "*bf16:16", "partials": "*fp64:16"}
        types |= dict.fromkeys(("addresses", "blocks"), "*i64:16")
        configuration = Configuration({"BLOCK": total._BLOCK})
        yield Build("grad_norm.squares", types, configuration, architecture)
    for given in (False, True):
        kept = next(
            b for b in logprobs.builds("bf16", 90)
            if b.kernel.endswith("score") and b.configuration.constants["GIVEN_LSE"] == given
        )  # fmt: skip
        constants = kept.configuration.constants | {"SOFTCAP": True}  # type: ignore[operator]
        yield kept._replace(configuration=Configuration(constants, 8, 3))


def _wanted() -> list[Build]:
    ahead = compile_ahead.all_builds(ARCHITECTURES)
    if EVERYTHING:
        return [*ahead, *_not_built_ahead()]
    chosen = {}
    for architecture, pattern in HEAVIEST:
        found = [
            build
            for build in ahead
            if build.architecture == architecture
            and re.match(pattern, compile_ahead.name_of(build).replace(f"sm_{architecture} ", ""))
        ]
        assert found, f"no build is {pattern} for sm_{architecture}"
        chosen |= {compile_ahead.name_of(build): build for build in found}
    return [*chosen.values(), *_not_built_ahead()]


BUILDS = _wanted()


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers a thread and bytes of stack and local memory, as the assembler counted them."""
    from triton import knobs

    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    said = subprocess.run(
        [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {name: int(n) for name, n in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}


@pytest.mark.parametrize("build", BUILDS, ids=lambda b: f"{b.kernel}-sm_{b.architecture}")
def test_compiles_without_spilling(build: Build, tmp_path: Path) -> None:
    made = compile_ahead.compiled(build)
    used = resources(made.image, tmp_path)
    print(f"\n{compile_ahead.name_of(build)}: {used}, {made.shared} bytes shared")
    assert made.shared <= SHARED_MEMORY[build.architecture]
    assert used["REG"] > 0, "cuobjdump no longer says what it did"
    assert used["STACK"] == used["LOCAL"] == 0, f"registers spill: {used}"
    assert made.image.startswith(b"\x7fELF")
    assert made.symbol.encode() in made.image
    assert str(compile_ahead.KERNELS).encode() not in made.image, "a path of this machine"


def test_nothing_in_this_build_spills(tmp_path: Path) -> None:
    """The cubins of a wheel with CUDA, all of them, as they will be launched."""
    try:
        listed = _C.Cubins().listed()
    except RuntimeError as e:
        if "has no" not in str(e):  # the library is there and does not open: nothing to pass over
            raise
        pytest.skip(str(e))
    assert len(listed) == len(compile_ahead.all_builds(sorted(_C.Cubins().architectures)))
    spilled = []
    registers: dict[tuple[str, int], list[int]] = {}
    for row in listed:
        what = f"{row['kernel']} sm_{row['architecture']} {row['configuration']}"
        image: bytes = row["image"]
        assert image.startswith(b"\x7fELF"), what
        assert row["symbol"].encode() in image, what
        assert str(compile_ahead.KERNELS).encode() not in image, f"a path of this machine: {what}"
        assert row["shared"] <= SHARED_MEMORY[row["architecture"]], what
        used = resources(image, tmp_path)
        assert 0 < used["REG"] <= 255, what
        registers.setdefault((row["kernel"], row["architecture"]), []).append(used["REG"])
        if used["STACK"] or used["LOCAL"]:
            spilled.append((what, used))
    for (kernel, at), counts in sorted(registers.items()):
        print(f"{kernel} sm_{at}: {len(counts)} cubins, registers {min(counts)} to {max(counts)}")
    print(f"{len(listed)} cubins, {len(spilled)} with spills")
    assert not spilled


def test_every_op_is_compiled_for_every_architecture() -> None:
    """A new op cannot be forgotten: it is in OPS, and something of it is compiled above.

    Those in CUDA C++ alone are looked for in test_cuda_compile.py.
    """
    compiled_for = {(build.kernel.split(".")[0], build.architecture) for build in BUILDS}
    has = {name: {kernel.backend for kernel in op.kernels} for name, op in ops.OPS.items()}
    assert all(backends & {"cuda", "triton"} for backends in has.values()), has
    wanted = {(op, at) for op in has if "triton" in has[op] for at in ARCHITECTURES}
    assert not wanted - compiled_for, f"nothing is compiled of {sorted(wanted - compiled_for)}"


def test_every_rank_in_the_table_has_tiles() -> None:
    """The builds and the host side ask one function, so a rank is built as it is launched."""
    for dtype, ranks in lora.RANK_TILES.items():
        assert [lora.rank_tile(rank) for rank in ranks] == list(ranks), dtype


def test_the_build_needs_neither_torch_nor_the_package() -> None:
    """CMake runs the script where there may be no torch, before anything is installed."""
    script = (
        "import runpy, sys; sys.modules['torch'] = None\n"
        "sys.argv = ['compile_ahead', '--help']\n"
        f"try: runpy.run_path({str(Path(compile_ahead.__file__))!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "from crucible_kitchen.kernels.common.compile_ahead import all_builds, in_order\n"
        "print(len([in_order(build) for build in all_builds([90])]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[-1]) > 100


def test_a_build_with_a_type_too_few_is_refused() -> None:
    build: Any = next(iter(logprobs.builds("bf16", 90)))
    short = dict(list(build.arguments.items())[1:])
    with pytest.raises(ValueError, match=r"linear_logprobs\.score: types must be of"):
        compile_ahead.compiled(build._replace(arguments=short))
