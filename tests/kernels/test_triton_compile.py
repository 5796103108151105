"""Triton kernels compiled for GPUs this machine does not have; no register may spill.

The kernels' tests under the interpreter say what they compute; this says that they fit.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from .conftest import INTERPRETED

triton = pytest.importorskip("triton")
if INTERPRETED:
    pytest.skip("an interpreted kernel cannot be compiled", allow_module_level=True)

from crucible_kitchen import ops  # noqa: E402
from crucible_kitchen.kernels.adamw_step import triton_kernels as adamw  # noqa: E402
from crucible_kitchen.kernels.grad_norm import triton_kernels as total  # noqa: E402
from crucible_kitchen.kernels.linear_logprobs import triton_kernels as logprobs  # noqa: E402
from crucible_kitchen.kernels.linear_logprobs import triton_launch  # noqa: E402
from crucible_kitchen.kernels.lora_linear import triton_kernels as lora  # noqa: E402
from crucible_kitchen.kernels.rms_norm import triton_kernels as norm  # noqa: E402
from crucible_kitchen.kernels.rope import triton_kernels as rotary  # noqa: E402
from crucible_kitchen.kernels.swiglu import triton_kernels as gated  # noqa: E402
from crucible_kitchen.kernels.varlen_attention import triton_kernels as attention  # noqa: E402
from crucible_kitchen.kernels.varlen_attention import triton_launch as attention_launch  # noqa: E402

# Every kernel for one architecture, and one of each op for each other, with those that ask most of
# the registers: a compilation takes a second, and CRUCIBLE_COMPILE_ALL=1 is for all of them.
ARCHITECTURES = (80, 90, 100)
ARCHITECTURE = 90
OTHERS = (
    ("linear_logprobs", "score", torch.float32, 80),
    ("linear_logprobs", "merge", torch.bfloat16, 100),
    ("lora_linear", "backward-r128", torch.float32, 80),
    ("lora_linear", "rank_gradient-r128", torch.float32, 80),
    ("lora_linear", "backward-r128", torch.bfloat16, 100),
    *(
        (op, name, torch.bfloat16, architecture)
        for op, name in (
            ("adamw_step", "update"),
            ("grad_norm", "squares"),
            ("rms_norm", "forward"),
            ("rope", "rotate"),
            ("swiglu", "forward"),
            ("varlen_attention", "forward"),
        )
        for architecture in (80, 100)
    ),
)
# Ops that launch the kernels of another op and have none of their own.
WITHOUT_OWN = {"lora_linear_many"}
SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}  # bytes a block may take
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


class Build(NamedTuple):
    """One kernel with everything it is specialised on."""

    kernel: Any
    pointers: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int
    floats: tuple[str, ...] = ()


def _logprobs_builds(dtype: torch.dtype) -> Iterator[tuple[str, Build]]:
    tiles = triton_launch.tiles_for(dtype)
    blocks = {
        "BLOCK_T": tiles.tokens,
        "BLOCK_V": tiles.vocabulary,
        "BLOCK_H": tiles.hidden,
        "PRECISION": tiles.precision,
    }
    own = {f"{name}_ptr": NAMES[dtype] for name in ("x", "w", "scratch", "dw")}
    own["targets_ptr"] = "i64"
    shape = (tiles.warps, tiles.stages)
    score = {"TOTALS": True, "STORE": True, "GIVEN_LSE": False, "SOFTCAP": False}
    softcap = score | {"TOTALS": False, "SOFTCAP": True}
    for name, variant in (
        ("score", score),
        ("score-softcap", softcap),
        ("score-given_lse", softcap | {"GIVEN_LSE": True}),
    ):
        yield name, Build(logprobs._score, own, variant | blocks, *shape, ("softcap", "even_share"))
    merge = {"TOTALS": True, "BLOCK_T": tiles.tokens}
    yield "merge", Build(logprobs._merge, own, merge, 4, 3)
    yield "gather_slope", Build(logprobs._gather_slope, own, blocks, *shape)
    yield "gather_head", Build(logprobs._gather_head, own, blocks, *shape)


def _lora_builds(dtype: torch.dtype) -> Iterator[tuple[str, Build]]:
    own = {f"{name}_ptr": NAMES[dtype] for name in ("x", "p", "q", "z", "bias", "y", "xq", "s")}
    precision = lora.precision_of(dtype)
    for rank in (16, 32, 64, 128):
        block_r = lora.block_of_rank(rank)
        tiles = lora.tiles_for(dtype, block_r)
        blocks = {"BLOCK_R": block_r, "PRECISION": precision}
        multiply = blocks | {
            "BIAS": True, "DROP": "none",
            "BLOCK_M": tiles.m, "BLOCK_N": tiles.n, "BLOCK_K": tiles.k,
        }  # fmt: skip
        # Which stride is 1 depends on the direction; the compiler drops it from the arguments.
        forward = multiply | {"stride_pk": 1, "stride_qk": 1, "stride_zr": 1}
        backward = multiply | {"stride_pn": 1, "stride_qr": 1, "stride_zn": 1}
        shape = (tiles.warps, tiles.stages)
        yield f"forward-r{rank}", Build(lora._multiply, own, forward, *shape, ("scale",))
        yield f"backward-r{rank}", Build(lora._multiply, own, backward, *shape, ("scale",))
        sums = lora.rank_tiles_for(dtype)
        gradient = blocks | {"BLOCK_M": sums.k, "BLOCK_C": sums.n}
        own_shape = (sums.warps, sums.stages, ("scale",))
        plain = gradient | {"DROP": False}
        yield f"rank_gradient-r{rank}", Build(lora._rank_gradient, own, plain, *own_shape)
        if rank == 16:
            for name, side, dropped in (("forward", forward, "x"), ("backward", backward, "y")):
                masked = side | {"DROP": dropped}
                yield f"{name}-dropout", Build(lora._multiply, own, masked, *shape, ("scale",))
            masked = gradient | {"DROP": True}
            yield "rank_gradient-dropout", Build(lora._rank_gradient, own, masked, *own_shape)


def _rms_norm_builds(dtype: torch.dtype) -> Iterator[tuple[str, Build]]:
    own = {f"{name}_ptr": NAMES[dtype] for name in ("x", "w", "y", "dy", "dx")}
    row = {"BLOCK": norm.BLOCK_AT_MOST}
    yield "forward", Build(norm._forward_kernel, own, row, norm.WARPS, 3, ("eps",))
    yield "grad_x", Build(norm._grad_x_kernel, own, row, norm.WARPS, 3)
    sums = {"BLOCK_M": norm.BLOCK_M, "BLOCK_C": norm.BLOCK_C}
    yield "grad_weight", Build(norm._grad_weight_kernel, own, sums, 4, 3)


def _rope_builds(dtype: torch.dtype) -> Iterator[tuple[str, Build]]:
    own = {f"{name}_ptr": NAMES[dtype] for name in ("x", "y")}
    yield "rotate", Build(rotary._rotate_kernel, own, {"BLOCK": 64}, 1, 3, ("sign",))


def _swiglu_builds(dtype: torch.dtype) -> Iterator[tuple[str, Build]]:
    own = {f"{name}_ptr": NAMES[dtype] for name in ("gate", "up", "y", "dy", "dgate", "dup")}
    yield "forward", Build(gated._forward_kernel, own, {"BLOCK": gated.BLOCK}, 4, 3)
    yield "backward", Build(gated._backward_kernel, own, {"BLOCK": gated.BLOCK}, 4, 3)


def _varlen_attention_builds(dtype: torch.dtype) -> Iterator[tuple[str, Build]]:
    own = {f"{name}_ptr": NAMES[dtype] for name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv")}
    for name in ("tiles", "bounds", "parents", "positions", "reach", "reached"):
        own[f"{name}_ptr"] = "i64"
    tiles = attention_launch.tiles_for(dtype, 64)
    blocks = {"BLOCK_M": tiles.rows, "BLOCK_N": tiles.rows, "BLOCK_D": 64}
    constants = blocks | {"PRECISION": tiles.precision}
    for name in ("forward", "grad_q", "grad_kv"):
        kernel = getattr(attention, f"_{name}_kernel")
        yield name, Build(kernel, own, constants, tiles.warps, tiles.stages, ("scale",))


def _adamw_builds(dtype: torch.dtype) -> Iterator[tuple[str, Build]]:
    own = {f"like_{name}": NAMES[dtype] for name in ("param", "grad")}
    own |= {"like_moment": "fp32", "corrections": "fp32"}
    own |= {"addresses": "i64", "sizes": "i64", "blocks": "i64"}
    floats = ("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "decay", "eps", "grad_scale")
    for name, stochastic in (("update", dtype == torch.bfloat16), ("update-nearest", False)):
        constants = {"STOCHASTIC": stochastic, "BLOCK": adamw._BLOCK}
        yield name, Build(adamw._update, own, constants, 4, 3, floats)


def _grad_norm_builds(dtype: torch.dtype) -> Iterator[tuple[str, Build]]:
    own = {"like": NAMES[dtype], "addresses": "i64", "blocks": "i64", "partials": "fp64"}
    yield "squares", Build(total._squares, own, {"BLOCK": total._BLOCK}, 4, 3)


OPS = {
    "adamw_step": _adamw_builds,
    "grad_norm": _grad_norm_builds,
    "linear_logprobs": _logprobs_builds,
    "lora_linear": _lora_builds,
    "rms_norm": _rms_norm_builds,
    "rope": _rope_builds,
    "swiglu": _swiglu_builds,
    "varlen_attention": _varlen_attention_builds,
}


def _builds() -> Iterator[Any]:
    everything = os.environ.get("CRUCIBLE_COMPILE_ALL") == "1"
    wanted = [
        (op, name, dtype, architecture)
        for op, builds in OPS.items()
        for dtype in (NAMES if everything else (torch.bfloat16,))
        for name, _ in builds(dtype)
        if everything or not name.endswith(("-r32", "-r64"))
        for architecture in (ARCHITECTURES if everything else (ARCHITECTURE,))
    ]
    for op, name, dtype, architecture in wanted if everything else (*wanted, *OTHERS):
        build = dict(OPS[op](dtype))[name]
        label = f"{op}-{name}-{NAMES[dtype]}-sm_{architecture}"
        yield pytest.param(build, architecture, id=label)


def compiled(build: Build, architecture: int) -> Any:
    """The kernel as the JIT would build it for aligned pointers and sizes that 16 divides."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, aligned = {}, {}
    for i, name in enumerate(build.kernel.arg_names):
        if name in build.constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr") or name in build.pointers:
            signature[name] = "*" + build.pointers.get(name, "fp32")
        else:
            signature[name] = "fp32" if name in build.floats else "i32"
        if signature[name][0] in "*i":
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(build.kernel, signature, build.constants, aligned)
    return triton.compile(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options={
            "num_warps": build.warps, "num_stages": build.stages, "enable_fp_fusion": True,
        },
    )  # fmt: skip


def resources(kernel: Any, folder: Path) -> dict[str, int]:
    """Registers a thread and bytes of stack and local memory, as the assembler counted them."""
    from triton import knobs

    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    said = subprocess.run(
        [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(cubin)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {name: int(n) for name, n in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}


@pytest.mark.parametrize(("build", "architecture"), list(_builds()))
def test_compiles_without_spilling(
    build: Build, architecture: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kernel = compiled(build, architecture)
    used = resources(kernel, tmp_path)
    print(f"\n{request.node.callspec.id}: {used}, {kernel.metadata.shared} bytes shared")
    assert kernel.metadata.shared <= SHARED_MEMORY[architecture]
    assert used["REG"] > 0, "cuobjdump no longer says what it did"
    assert used["STACK"] == used["LOCAL"] == 0, f"registers spill: {used}"


def test_every_op_is_compiled_for_every_architecture() -> None:
    """A new op cannot be forgotten: it is in OPS here, and something of it in OTHERS."""
    compiled_for = {(op, ARCHITECTURE) for op in OPS} | {(op, at) for op, _, _, at in OTHERS}
    own = ops.OPS.keys() - WITHOUT_OWN
    wanted = {(op, architecture) for op in own for architecture in ARCHITECTURES}
    missing = wanted - compiled_for
    assert not missing, f"nothing is compiled of {sorted(missing)}"
