"""Tile sizes and launch shapes of the Triton kernels, by architecture: the one place to tune them.

Both ways to a kernel read it: Triton when it compiles on first use, and the build that compiles
ahead of time. It imports neither torch nor Triton.
"""

from __future__ import annotations

from typing import NamedTuple


class Tiles(NamedTuple):
    """What one program works on, and how it is built.

    Args:
        m, n: rows and columns of the result; 0 where there is no such axis, or it is taken whole.
        k: what is summed over at a time.
        warps, stages: of 32 threads, and of the pipeline that hides loads.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int


# Compute capabilities that cubins are built for, without the dot.
ARCHITECTURES = (80, 90, 100)
# Compute capability of a device -> whose cubins it runs. One for sm_80 runs on later devices of its
# major version too; the others are for the instructions of one device alone.
OF_CUBIN = {(8, 0): 80, (8, 6): 80, (8, 7): 80, (8, 9): 80, (9, 0): 90, (10, 0): 100}
# A row holds for extents up to this where no narrower one does.
ANY = 1 << 30
HALF, SINGLE = "half", "single"


def _everywhere(tiles: Tiles) -> dict[int, Tiles]:
    """One shape for all: it fits each, and no device has been measured to want another."""
    return dict.fromkeys(ARCHITECTURES, tiles)


# (kernel, width of its elements) -> the greatest extent a row is for -> architecture -> tiles.
# The extent is what grows the registers: the rank's tile, a head's, or a row's length. Products
# have the largest tiles whose sums stay in the registers of every architecture, as
# tests/kernels/test_triton_compile.py checks, and where one differs, it would spill otherwise;
# float32 goes through three tf32 products, which take more. A rank above 128 takes the smallest
# tiles and may spill.
_TILES: dict[tuple[str, str], dict[int, dict[int, Tiles]]] = {
    ("lora_linear.multiply", HALF): {
        32: _everywhere(Tiles(128, 128, 64, 8, 3)),
        64: _everywhere(Tiles(64, 128, 64, 8, 3)) | {80: Tiles(64, 128, 32, 8, 3)},
        ANY: _everywhere(Tiles(64, 128, 64, 8, 3)),
    },
    ("lora_linear.multiply", SINGLE): {
        32: _everywhere(Tiles(64, 64, 16, 4, 2)),
        ANY: _everywhere(Tiles(32, 64, 16, 8, 2)),
    },
    ("lora_linear.rank_gradient", HALF): {ANY: _everywhere(Tiles(0, 64, 64, 4, 3))},
    ("lora_linear.rank_gradient", SINGLE): {ANY: _everywhere(Tiles(0, 64, 32, 8, 2))},
    # Updates of a few rows each: smaller tiles waste less of one that is not full.
    ("lora_linear_many.multiply", HALF): {
        16: _everywhere(Tiles(32, 128, 32, 4, 4)),
        ANY: _everywhere(Tiles(32, 128, 32, 8, 4)),
    },
    ("lora_linear_many.multiply", SINGLE): {ANY: _everywhere(Tiles(32, 64, 16, 8, 2))},
    # m tokens, n of the vocabulary, k of the hidden size.
    ("linear_logprobs", HALF): {ANY: _everywhere(Tiles(128, 128, 64, 8, 3))},
    ("linear_logprobs", SINGLE): {ANY: _everywhere(Tiles(64, 64, 32, 4, 2))},
    # m queries by n keys, as many; the extent is a head's.
    ("varlen_attention.forward", HALF): {
        128: _everywhere(Tiles(64, 64, 0, 8, 2)),
        ANY: _everywhere(Tiles(32, 32, 0, 4, 1)),
    },
    ("varlen_attention.grad_q", HALF): {
        64: _everywhere(Tiles(64, 64, 0, 8, 2)),
        128: {
            80: Tiles(64, 64, 0, 8, 2),
            90: Tiles(32, 32, 0, 4, 2),
            100: Tiles(64, 64, 0, 8, 1),
        },
        ANY: _everywhere(Tiles(32, 32, 0, 4, 1)),
    },
    ("varlen_attention.grad_kv", HALF): {
        64: _everywhere(Tiles(64, 64, 0, 8, 2)) | {80: Tiles(32, 32, 0, 4, 2)},
        128: {
            80: Tiles(32, 32, 0, 4, 2),
            90: Tiles(32, 32, 0, 4, 2),
            100: Tiles(64, 64, 0, 8, 1),
        },
        ANY: _everywhere(Tiles(32, 32, 0, 4, 1)),
    },
    **{
        (f"varlen_attention.{kernel}", SINGLE): {ANY: _everywhere(Tiles(32, 32, 0, 4, 1))}
        for kernel in ("forward", "grad_q", "grad_kv")
    },
    # n of a row at a time; the gradient of the weight takes m rows with them.
    **{
        ("rms_norm.row", width): {
            extent: _everywhere(Tiles(0, min(extent, 4096), 0, 8, 3))
            for extent in (128, 1024, 2048, ANY)
        }
        for width in (HALF, SINGLE)
    },
    ("rms_norm.grad_weight", HALF): {ANY: _everywhere(Tiles(32, 64, 0, 4, 3))},
    ("rms_norm.grad_weight", SINGLE): {
        ANY: _everywhere(Tiles(32, 64, 0, 4, 3)) | {100: Tiles(32, 64, 0, 8, 3)}
    },
    **{("swiglu", width): {ANY: _everywhere(Tiles(0, 1024, 0, 4, 3))} for width in (HALF, SINGLE)},
    **{("rope", width): {ANY: _everywhere(Tiles(0, 0, 0, 1, 3))} for width in (HALF, SINGLE)},
}


def tiles(kernel: str, dtype: str, architecture: int, extent: int = 0) -> Tiles:
    """The row of a kernel.

    Args:
        kernel: as in the table.
        dtype: of its elements: fp32, fp16 or bf16.
        architecture: one of ARCHITECTURES.
        extent: what the row must hold.
    """
    rows = _TILES[kernel, SINGLE if dtype == "fp32" else HALF]
    return rows[min(limit for limit in rows if limit >= extent)][architecture]


def architecture_for(major: int, minor: int) -> int:
    """Whose tiles a device of this compute capability takes.

    Devices without tensor cores of their own kind, such as sm_120, work as sm_80 does.
    """
    return {9: 90, 10: 100}.get(major, 80)


def precision(dtype: str) -> str:
    """How products of float32 are made, of no account for others."""
    return "tf32x3" if dtype == "fp32" else "tf32"


def power_of_2(n: int) -> int:
    """The smallest that is not below n, which is at least 1."""
    return 1 << (n - 1).bit_length()
