"""What the conformance test cannot see of varlen_attention: torch's own, sharing, checks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.varlen_attention import cases


def inputs(lengths=(70, 3, 31), dtype=torch.float32) -> tuple[Tensor, ...]:
    return cases.inputs(cases.Size(tuple(lengths), 4, 2, 24), dtype, "cpu")


def test_which_kernel_is_chosen() -> None:
    args = inputs()
    assert ops.explain("varlen_attention", *args).chosen == "cpu"
    halves = (t.half() for t in args[:3])
    assert ops.explain("varlen_attention", *halves, args[3]).chosen == "reference"


def test_it_is_torchs_attention_of_each_sequence() -> None:
    q, k, v, bounds = inputs()
    want = [
        functional.scaled_dot_product_attention(
            *(t.transpose(0, 1) for t in part), is_causal=True, enable_gqa=True
        ).transpose(0, 1)
        for part in zip(*(t.split([70, 3, 31]) for t in (q, k, v)), strict=True)
    ]
    torch.testing.assert_close(ops.varlen_attention(q, k, v, bounds), torch.cat(want))
    torch.testing.assert_close(ops.varlen_attention(q, k, v, bounds.int()), torch.cat(want))


def test_a_shared_beginning_is_that_of_every_sequence() -> None:
    """Values, and gradients that meet where the sequences part."""
    q, k, v, _ = (t.requires_grad_() if t.is_floating_point() else t for t in inputs((20, 9, 5)))
    bounds, parents = torch.tensor([0, 20, 29, 34]), torch.tensor([-1, 0, 0])
    shared = ops.varlen_attention(q, k, v, bounds, parents=parents)
    rows = torch.tensor([*range(29), *range(20), *range(29, 34)])
    apart = ops.varlen_attention(*(t[rows] for t in (q, k, v)), torch.tensor([0, 29, 54]))
    torch.testing.assert_close(shared, torch.cat((apart[:29], apart[49:])))
    slope = torch.randn(shared.shape, generator=torch.Generator().manual_seed(0))
    spread = torch.cat((slope[:29], torch.zeros_like(slope[:20]), slope[29:]))
    for one, other in zip(
        torch.autograd.grad(shared, (q, k, v), slope),
        torch.autograd.grad(apart, (q, k, v), spread),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_a_sequence_is_bit_for_bit_what_it_is_alone() -> None:
    """Gradients too, of one that the backward divides."""
    q, k, v, bounds = inputs((70, 3, 310))

    def made(first: int, bounds: Tensor) -> list[Tensor]:
        leaves = [t[first:].requires_grad_() for t in (q, k, v)]
        out = ops.varlen_attention(*leaves, bounds)
        return [out, *torch.autograd.grad(out, leaves, q[first:])]

    together, alone = made(0, bounds), made(73, torch.tensor([0, 310]))
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one[73:], other)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("lengths", [(70, 3, 31), (300,)], ids=str)
def test_the_same_bits_for_any_number_of_threads(lengths, dtype: torch.dtype) -> None:
    q, k, v, bounds = inputs(lengths, dtype)

    def made(threads: int) -> list[Tensor]:
        out, lse = torch.empty_like(q), torch.empty(q.shape[:2])
        _C.varlen_attention_forward(q, k, v, bounds, None, 0.2, 0, out, lse, threads)
        grads = [torch.empty_like(t) for t in (q, k, v)]
        given = (q, q, k, v, out, lse, bounds, None, 0.2, 0)
        _C.varlen_attention_backward(*given, *grads, threads)
        return [out, lse, *grads]

    assert all(torch.equal(a, b) for a, b in zip(made(1), made(3), strict=True))


@pytest.mark.parametrize("turn", [False, True], ids=["rising", "falling"])
def test_scores_may_rise_and_fall_far_along_a_sequence(turn: bool) -> None:
    """What exponentials are taken less of moves by hundreds, for some queries of a tile."""
    size = torch.linspace(0, 200, 300)[:, None, None]
    q, k, v, bounds = inputs((300,))
    k = k * (size.flip(0) if turn else size)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    got = ops.varlen_attention(*leaves, bounds)
    want = functional.scaled_dot_product_attention(
        *(t.transpose(0, 1) for t in wide), is_causal=True, enable_gqa=True
    ).transpose(0, 1)
    slope = torch.randn(got.shape, generator=torch.Generator().manual_seed(0))
    grads = torch.autograd.grad(got, leaves, slope)
    wants = torch.autograd.grad(want, wide, slope.double())
    for one, other in zip((got, *grads), (want, *wants), strict=True):
        assert torch.dist(one.double(), other) <= 2e-4 * other.norm()  # scores near 2000: 1e-4


def test_a_query_far_from_zero_overflows_nothing() -> None:
    q, k, v, bounds = inputs((40,))
    out = ops.varlen_attention(1e4 * q, 1e4 * k, v, bounds)
    assert out.isfinite().all()
    torch.testing.assert_close(out[0], v[0].repeat_interleave(2, 0))


def test_what_is_not_finite_stays_in_its_sequence() -> None:
    q, k, v, bounds = inputs()
    k[5] = torch.nan
    out = ops.varlen_attention(q, k, v, bounds)
    assert out[:5].isfinite().all()
    assert out[70:].isfinite().all()
    assert out[5:70].isnan().all()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            lambda q, k, v, b: (q[0], k, v, b),
            ValueError,
            "q must have shape .T, A, D., got .4, 24.",
        ),
        (lambda q, k, v, b: (q.int(), k, v, b), TypeError, "q must be floating point"),
        (lambda q, k, v, b: (q[:, :3], k, v, b), ValueError, "G a divisor of 3"),
        (lambda q, k, v, b: (q, k[1:], v, b), ValueError, "k must have shape .* T = 104"),
        (lambda q, k, v, b: (q, k, v[:, :1], b), ValueError, "v must have k's shape"),
        (lambda q, k, v, b: (q, k.double(), v, b), TypeError, "k must have q's dtype"),
        (lambda q, k, v, b: (q, k, v.to("meta"), b), ValueError, "v must be on q's device"),
        (lambda q, k, v, b: (q, k, v, b[:0]), ValueError, "cu_seqlens must have one dimension"),
        (lambda q, k, v, b: (q, k, v, b.float()), TypeError, "cu_seqlens must be torch.int32"),
        (lambda q, k, v, b: (q, k, v, b[:-1]), ValueError, "must rise from 0 to T = 104"),
        (lambda q, k, v, b: (q, k, v, b.flip(0)), ValueError, "must rise from 0 to T = 104"),
    ],
)
def test_wrong_arguments_are_named(change, error, said) -> None:
    with pytest.raises(error, match=f"varlen_attention: .*{said}"):
        ops.varlen_attention(*change(*inputs()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"parents": torch.tensor([-1, 0])}, r"parents must have shape \[segments\] = \[3\]"),
        ({"parents": torch.tensor([-1, 1, 0])}, r"parents\[1\] must be an earlier segment or -1"),
        ({"parents": torch.tensor([-2, 0, 0])}, r"parents\[0\] must be an earlier segment or -1"),
    ],
)
def test_wrong_options_are_named(options, said) -> None:
    with pytest.raises(ValueError, match=f"varlen_attention: {said}"):
        ops.varlen_attention(*inputs(), **options)


def test_the_door_checks_too() -> None:
    q, k, v, bounds = inputs()
    rest = (0.2, 0, torch.empty_like(q), torch.empty(104, 4), 1)
    with pytest.raises(ValueError, match="cu_seqlens must rise from 0 to T = 104"):
        _C.varlen_attention_forward(q, k, v, bounds + 1, None, *rest)
    with pytest.raises(ValueError, match=r"parents\[0\] must be an earlier segment"):
        _C.varlen_attention_forward(q, k, v, bounds, torch.zeros(3, dtype=torch.int64), *rest)
    with pytest.raises(ValueError, match="k must be contiguous"):
        _C.varlen_attention_forward(
            q, k.transpose(0, 1).contiguous().transpose(0, 1), v, bounds, None, *rest
        )
