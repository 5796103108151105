"""Whatever an op launches is in the table of cubins, unless `not_built` said that it is not.

The host side runs here on CPU tensors with a launcher that only looks its kernels up.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.common.configuration import Configuration
from crucible_kitchen.kernels.common.tuning import ARCHITECTURES, OF_CUBIN, architecture_for
from crucible_kitchen.kernels.lora_linear.variant import Drop
from crucible_kitchen.kernels.lora_linear_many.variant import Updates, Wanted
from crucible_kitchen.kernels.varlen_attention.variant import Segments

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
Look = Callable[[str], tuple[Any, list[str]]]


@pytest.fixture(params=ARCHITECTURES, ids=lambda at: f"sm_{at}")
def look(
    request: pytest.FixtureRequest, whole_table: _C.Cubins, monkeypatch: pytest.MonkeyPatch
) -> Look:
    """An op's variant whose launches are looked up for one architecture, and their names."""
    architecture: int = request.param

    def variant(op: str) -> tuple[Any, list[str]]:
        names: list[str] = []

        def launch(
            kernel: str, grid: tuple[int, ...], args: Sequence[Any], configuration: Configuration
        ) -> None:
            whole_table.family(kernel, architecture, configuration.key).select(args)
            assert all(0 < n < 2**31 for n in grid)
            names.append(kernel.partition(".")[2])

        for name in {op, op.removesuffix("_many")}:
            module = importlib.import_module(f"crucible_kitchen.kernels.{name}.triton_launch")
            monkeypatch.setattr(module, "architecture_of", lambda tensor: architecture, False)
        module = importlib.import_module(f"crucible_kitchen.kernels.{op}.triton_launch")
        return module.variant(launch), names

    return variant


def shifted(tensor: Tensor) -> Tensor:
    """The same values one element further in memory: not aligned to 16 bytes."""
    wide = tensor.new_empty(tensor.numel() + 1)
    wide[1:] = tensor.flatten()
    return wide[1:].view(tensor.shape)


def strided(tensor: Tensor) -> Tensor:
    """The same values, every other element of a wider tensor."""
    wide = tensor.new_zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]))
    wide[..., ::2] = tensor
    return wide[..., ::2]


CHANGES = (lambda tensor: tensor, shifted, strided)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lora_linear(look: Look, dtype: torch.dtype) -> None:
    variant, names = look("lora_linear")
    refuses = ops.OPS["lora_linear"].kernel("cuda").refuses
    for M, R, change in itertools.product((1, 5, 16), (1, 4, 8, 16, 24, 64, 128), CHANGES):
        if R > 16 and dtype == torch.float32:
            continue
        x, dy = change(torch.zeros(M, 48, dtype=dtype)), change(torch.zeros(M, 64, dtype=dtype))
        weight = torch.zeros(64, 48, dtype=dtype)
        a, b = torch.zeros(R, 48), change(torch.zeros(64, R, dtype=dtype))
        assert "cpu" in str(refuses(x, weight, a)), "there is no other reason"
        for bias, drop in itertools.product((None, torch.zeros(64)), (Drop(0, 0), Drop(0.1, 7))):
            _, xa = variant.forward(x, weight, a, b, 2, bias, drop)
            made = variant.backward(dy, x, weight, a, b, 2.0, xa, (True, True, True), drop)
            assert xa.shape == (M, R)
            assert [t.shape for t in made] == [(M, 48), (R, 48), (64, R)]
    assert set(names) == {"multiply", "rank_gradient"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lora_linear_many(look: Look, dtype: torch.dtype) -> None:
    """One launch a product, whatever the number of updates; ranks may differ."""
    variant, names = look("lora_linear_many")
    rows = [3, 0, 5000, 1]
    for ranks, share, change in itertools.product(
        ((8, 8, 8, 8), (16, 1, 4, 16)), (0.0, 0.1), CHANGES
    ):
        x = change(torch.zeros(sum(rows), 32, dtype=dtype))
        weights = [torch.zeros(n, 32, dtype=dtype) for n in (48, 16)]
        a = [torch.zeros(rank, 32) for _ in weights for rank in ranks]
        b = [torch.zeros(len(w), rank, dtype=dtype) for w in weights for rank in ranks]
        drops = [Drop(share, seed) for seed in range(8)]
        updates = Updates(a, b, [1.0] * 8, rows, drops)
        biases = [torch.zeros(48), torch.zeros(16, dtype=dtype)] if share else []
        ys, xa = variant.forward(x, weights, biases, updates)
        assert names == ["multiply"] * 2
        assert len(xa) == 2 * sum(m * rank for m, rank in zip(rows, ranks, strict=True))
        names.clear()
        dx, das, dbs = variant.backward(ys, x, weights, updates, xa, Wanted(True, True, True))
        assert sorted(names) == ["multiply"] * 2 + ["rank_gradient"] * 4
        names.clear()
        assert dx.shape == x.shape
        for made, given in ((das, a), (dbs, b)):
            assert [(t.shape, t.dtype) for t in made] == [(t.shape, t.dtype) for t in given]
            assert all(t.is_contiguous() for t in made)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_logprobs(look: Look, dtype: torch.dtype) -> None:
    variant, names = look("linear_logprobs")
    for T, smoothing, slope, change in itertools.product(
        (1, 7), (0.0, 0.1), (True, False), CHANGES
    ):
        hidden, weight = torch.zeros(T, 32, dtype=dtype), change(torch.zeros(48, 32, dtype=dtype))
        targets = torch.zeros(T, dtype=torch.int64)
        logprobs, lse, miss, _ = variant.forward(hidden, weight, targets, 0.0, smoothing, slope)
        variant.grad_weight(logprobs, hidden, weight, targets, lse, miss, 0.0, smoothing)
    assert set(names) == {"score", "merge", "gather_slope", "gather_head"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rms_norm(look: Look, dtype: torch.dtype) -> None:
    variant, names = look("rms_norm")
    for N, change in itertools.product((16, 576, 1040, 2560, 8192), CHANGES):
        x, weight = change(torch.zeros(3, N, dtype=dtype)), change(torch.zeros(N, dtype=dtype))
        y, rstd = variant.forward(x, weight, 1e-5)
        variant.backward(y, x, weight, rstd, (True, True))
    assert set(names) == {"forward", "grad_x", "grad_weight"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_swiglu_and_rope(look: Look, dtype: torch.dtype) -> None:
    variant, names = look("swiglu")
    for change in CHANGES:
        gate = change(torch.zeros(3, 48, dtype=dtype))
        variant.backward(variant.forward(gate, gate), gate, gate)
    assert set(names) == {"forward", "backward"}
    variant, names = look("rope")
    for D, change in itertools.product((64, 96, 128, 256), CHANGES):
        x, angles = change(torch.zeros(3, 2, D, dtype=dtype)), change(torch.zeros(3, D // 2))
        variant.rotate(x, angles, angles, True)
    assert set(names) == {"rotate"}


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_varlen_attention(look: Look, dtype: torch.dtype) -> None:
    variant, names = look("varlen_attention")
    segments = Segments(torch.tensor([0, 3, 5]), torch.tensor([-1, 0]))
    for D, change in itertools.product((48, 64, 80, 128), CHANGES):
        q, kv = (change(torch.zeros(5, heads, D, dtype=dtype)) for heads in (4, 1))
        out, lse = variant.forward(q, kv, kv, segments, 0.1, 0)
        variant.backward(out, q, kv, kv, out, lse, segments, 0.1, 1)
    assert set(names) == {"forward", "grad_q", "grad_kv"}


@pytest.mark.parametrize(
    ("op", "sizes", "reason"),
    [
        ("lora_linear", ("bf16", 40, 64, 8), "K = 40 and N = 64 must be multiples of 16"),
        ("lora_linear", ("fp32", 64, 64, 17), "rank 17 is over 16, the widest in fp32"),
        ("linear_logprobs", (64, 50257, 0.0), "H = 64 and V = 50257 must be multiples of 16"),
        ("linear_logprobs", (64, 64, 30.0), "a logit softcap is not built"),
        ("rms_norm", (37,), "N = 37 is no multiple of 16"),
        ("swiglu", (17,), "17 elements are no multiple of 16"),
        ("rope", (80,), "D = 80 is no multiple of 32 from 64 to 256"),
        ("varlen_attention", ("bf16", 256), "D = 256 is no multiple of 16 from 48 to 128"),
        ("varlen_attention", ("fp32", 64), "attention in fp32 is not built"),
    ],
)
def test_what_is_not_built_has_its_reason(op: str, sizes: Any, reason: str) -> None:
    builds = importlib.import_module(f"crucible_kitchen.kernels.{op}.builds")
    assert builds.not_built(*sizes) == reason


@pytest.mark.parametrize(
    ("capability", "tiles", "cubins"),
    [((8, 0), 80, 80), ((8, 9), 80, 80), ((9, 0), 90, 90), ((10, 0), 100, 100),
     ((10, 3), 100, None), ((12, 0), 80, None)],
)  # fmt: skip
def test_a_device_runs_what_was_built_for_it(
    capability: tuple[int, int], tiles: int, cubins: int | None
) -> None:
    assert architecture_for(*capability) == tiles
    assert OF_CUBIN.get(capability) == cubins
