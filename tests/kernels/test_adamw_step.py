"""What the conformance test cannot see of adamw_step and grad_norm: rounding, threads, checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.adamw_step import cases
from crucible_kitchen.kernels.adamw_step.reference import round_stochastically

BACKENDS = ("cpu", "reference")


def step(args: tuple[list[Tensor], ...], **changed: Any) -> None:
    """One step on the inputs of a case."""
    size = cases.Size(tuple(tuple(param.shape) for param in args[0]))
    options: dict[str, Any] = {**cases.options(size), **changed}
    ops.adamw_step(*args, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("param_dtype", cases.DTYPES)
@pytest.mark.parametrize("grad_dtype", cases.DTYPES)
def test_dtypes_of_parameters_and_gradients_are_independent(
    backend: Any, param_dtype: torch.dtype, grad_dtype: torch.dtype
) -> None:
    params, grads, exp_avgs, exp_avg_sqs = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    params = [p.to(param_dtype) for p in params]
    grads = [g.to(grad_dtype) for g in grads]
    exact = [p.double() for p in params]
    moments = [m.double() for m in exp_avgs], [v.double() for v in exp_avg_sqs]
    with ops.using("reference"):
        step((exact, grads, *moments))
    with ops.using(backend):
        step((params, grads, exp_avgs, exp_avg_sqs))
    for got, want in zip(params, exact, strict=True):
        tolerance = 2.0**-8 if param_dtype == torch.bfloat16 else 1e-6
        assert (got.double() - want).norm() <= tolerance * want.norm()


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            args = cases.inputs(cases.SIZES["many_chunks"], dtype, "cpu")
            with ops.using("cpu"):
                norm = ops.grad_norm(args[1])
                step(args, stochastic_rounding=True, seed=7)
            results.append([norm, *args[0], *args[2], *args[3]])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_stochastic_rounding_is_that_of_the_reference(backend: Any) -> None:
    """lr 0 and no decay leave only the noise: parameters on the grid stay, bit for bit."""
    args = cases.inputs(cases.SIZES["odd"], torch.bfloat16, "cpu")
    before = [p.clone() for p in args[0]]
    with ops.using(backend):
        step(args, lr=0.0, stochastic_rounding=True, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(args[0], before, strict=True))
    # Half a unit up from 1 by weight decay alone, which float32 computes exactly.
    ones = torch.ones(70_000, dtype=torch.bfloat16)
    zeros = torch.zeros(70_000)
    moments = [zeros.clone(), zeros.clone()], [zeros.clone(), zeros.clone()]
    params = [ones[:3].clone(), ones.clone()]
    moments[0][0], moments[1][0] = zeros[:3].clone(), zeros[:3].clone()
    grads = [zeros[:3].clone(), zeros.clone()]
    seed = (5 << 40) + 9
    with ops.using(backend):
        step(
            (params, grads, *moments),
            lr=2.0**-9,
            weight_decay=1.0,
            stochastic_rounding=True,
            seed=seed,
        )
    want = round_stochastically(torch.full((70_000,), 1 - 2.0**-9), coordinate=1, seed=seed)
    assert torch.equal(params[1], want)


def test_stochastic_rounding_is_unbiased_and_takes_the_neighbours() -> None:
    x = torch.full((200_000,), 1 + 0.3 * 2.0**-7)  # three tenths of the way to the next bfloat16
    rounded = round_stochastically(x, coordinate=0, seed=11)
    assert set(rounded.double().tolist()) == {1.0, 1 + 2.0**-7}
    up = (rounded > 1).double().mean().item()
    assert abs(up - 0.3) < 5 * (0.3 * 0.7 / len(x)) ** 0.5, "five standard deviations"


def test_neighbouring_elements_tensors_and_seeds_round_independently() -> None:
    x = torch.full((100_000,), 1 + 2.0**-8)
    first = round_stochastically(x, coordinate=0, seed=1) > 1
    others = {
        "the next element": torch.roll(first, 1),
        "another tensor": round_stochastically(x, coordinate=1, seed=1) > 1,
        "the next seed": round_stochastically(x, coordinate=0, seed=2) > 1,
        "another high half": round_stochastically(x, coordinate=0, seed=1 + (1 << 40)) > 1,
    }
    for name, other in others.items():
        agreement = (first == other).double().mean().item()
        assert abs(agreement - 0.5) < 5 * 0.5 / len(x) ** 0.5, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_the_norm_is_finite_exactly_if_every_gradient_is(
    backend: Any, bad: float, dtype: torch.dtype
) -> None:
    grads = cases.inputs(cases.SIZES["many_chunks"], dtype, "cpu")[1]
    with ops.using(backend):
        grads[0][1, 5] = 3e38  # its square is infinite in float32
        assert ops.grad_norm(grads).isfinite()
        grads[0][2, 40_960] = bad
        assert not ops.grad_norm(grads).isfinite()


@pytest.mark.parametrize("backend", BACKENDS)
def test_transposed_parameters_are_stepped_in_place(backend: Any) -> None:
    def transposed() -> tuple[list[Tensor], ...]:
        args = cases.inputs(cases.Size(((3, 7),)), torch.float32, "cpu")
        return tuple([t.t().contiguous().t() for t in tensors] for tensors in args)

    args, want = transposed(), transposed()
    with ops.using("reference"):
        step(want)
    with ops.using(backend):
        step(args)
    torch.testing.assert_close(args[0][0], want[0][0], rtol=1e-6, atol=1e-7)


def turned(tensor: Tensor) -> Tensor:
    """The same numbers in the other order in memory."""
    return tensor.t().contiguous().t()


def test_moments_in_another_order_in_memory_are_refused_with_a_reason() -> None:
    args = cases.inputs(cases.Size(((3, 7),)), torch.float32, "cpu")
    args[2][0] = turned(args[2][0])
    explanation = ops.explain("adamw_step", *args, **cases.options(cases.SIZES["one_element"]))
    assert explanation.chosen == "reference"
    assert "do not share one order in memory" in str(explanation)
    step(args)


def apart(grad: Tensor) -> Tensor:
    """The same numbers with gaps between them."""
    wide = torch.full((*grad.shape, 2), torch.nan, dtype=grad.dtype)
    wide[..., 0] = grad
    return wide[..., 0]


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("param_order", [torch.clone, turned])
@pytest.mark.parametrize("grad_order", [torch.clone, turned, apart])
def test_a_gradient_may_lie_anyhow_in_memory(
    dtype: torch.dtype, param_order: Any, grad_order: Any
) -> None:
    """The compiled kernel takes it, and gives what it gives one that lies as its parameter does."""
    size = cases.Size(((3, 7), (5, 64)))

    def laid(order: Any) -> tuple[list[Tensor], ...]:
        params, grads, *moments = cases.inputs(size, dtype, "cpu")
        given = [[param_order(t) for t in tensors] for tensors in (params, *moments)]
        return given[0], [order(grad) for grad in grads], *given[1:]

    got, want = laid(grad_order), laid(param_order)
    assert ops.explain("adamw_step", *got, **cases.options(size)).chosen == "cpu"
    assert ops.explain("grad_norm", got[1]).chosen == "cpu"
    assert ops.grad_norm(got[1]).item() == pytest.approx(ops.grad_norm(want[1]).item(), rel=1e-12)
    step(got)
    step(want)
    for have, wanted in zip(got[0] + got[2] + got[3], want[0] + want[2] + want[3], strict=True):
        assert torch.equal(have, wanted)
        assert have.stride() == wanted.stride()


def test_an_expanded_gradient_is_read_too() -> None:
    """What `x.sum().backward()` leaves: one number for all elements."""
    args = cases.inputs(cases.Size(((3, 7),)), torch.float32, "cpu")
    args[1][0] = torch.tensor(0.5).expand(3, 7)
    assert ops.explain("adamw_step", *args, **cases.options(cases.SIZES["one_element"])).chosen == (
        "cpu"
    )
    assert ops.grad_norm(args[1]).item() == pytest.approx(0.5 * 21**0.5)
    want = [[t.clone() for t in tensors] for tensors in args]
    with ops.using("reference"):
        step(tuple(want))
    step(args)
    torch.testing.assert_close(args[0][0], want[0][0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step": 0}, "step must be counted from 1, got 0"),
        ({"step": [1, 2]}, "step must be one number or 4, one a tensor, got 2"),
        ({"betas": (0.9, 1.5)}, r"betas\[1\] must be in \[0, 1\), got 1.5"),
    ],
)
def test_bad_constants(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"adamw_step: {message}"):
        step(cases.inputs(cases.SIZES["odd"], torch.float32, "cpu"), **changed)


def test_bad_shapes_are_named() -> None:
    params, grads, exp_avgs, exp_avg_sqs = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    wrong = [*exp_avgs[:3], torch.zeros(5)]
    with pytest.raises(ValueError, match=r"exp_avgs\[3\] must have the shape of params\[3\], "):
        step((params, grads, wrong, exp_avg_sqs))
    with pytest.raises(ValueError, match="grads must have 4 tensors, as params, got 3"):
        step((params, grads[:3], exp_avgs, exp_avg_sqs))


def test_integers_are_refused_with_a_reason() -> None:
    args = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    counts = [g.long() for g in args[1]]
    assert "grads must be float32 or bfloat16, got torch.int64" in str(
        ops.explain("adamw_step", args[0], counts, *args[2:], **cases.options(cases.SIZES["odd"]))
    )


def test_the_doors_name_the_op_the_argument_what_was_wanted_and_what_came() -> None:
    params, grads, exp_avgs, exp_avg_sqs = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    constants = ([1] * 4, (1e-3, 0.9, 0.95, 1e-8, 0.0, 1.0, 0.0), False, 0)

    def on_cpu(
        *lists: list[Tensor], scales: Any = ([], []), norm: Any = None, threads: int = 1
    ) -> None:
        _C.adamw_step_cpu((*lists, *scales), norm, *constants, threads=threads)

    with pytest.raises(ValueError, match=r"adamw_step: params\[0\] must be on CUDA, got cpu"):
        _C.adamw_step_cuda((params, grads, exp_avgs, exp_avg_sqs, [], []), None, *constants)
    with pytest.raises(ValueError, match="adamw_step: grads must have 4 entries, as params, got 3"):
        on_cpu(params, grads[:3], exp_avgs, exp_avg_sqs)
    with pytest.raises(ValueError, match="adamw_step: threads must be at least 1, got 0"):
        on_cpu(params, grads, exp_avgs, exp_avg_sqs, threads=0)
    doubles = [m.double() for m in exp_avgs]
    with pytest.raises(TypeError, match=r"exp_avgs must be torch\.float32 or torch\.bfloat16, got"):
        on_cpu(params, grads, doubles, exp_avg_sqs)
    short = [torch.ones(0)] * 4
    codes = [torch.zeros(p.shape, dtype=torch.uint8) for p in params]
    with pytest.raises(ValueError, match=r"exp_avg_scales must have shape \[BLOCKS\] = \[1\], got"):
        on_cpu(params, grads, codes, codes, scales=(short, short))
    with pytest.raises(TypeError, match=r"exp_avgs must be torch\.uint8, got torch\.float32"):
        on_cpu(params, grads, exp_avgs, exp_avg_sqs, scales=(short, short))
    with pytest.raises(TypeError, match=r"norm must be torch\.float64, got torch\.float32"):
        on_cpu(params, grads, exp_avgs, exp_avg_sqs, norm=torch.zeros(()))
    with pytest.raises(ValueError, match=r"adamw_step: params\[0\] must be dense and share"):
        on_cpu(params, [turned(grads[0]), *grads[1:]], exp_avgs, exp_avg_sqs)
    with pytest.raises(ValueError, match="grad_norm: grads must be dense, got one of shape"):
        _C.grad_norm_cpu([torch.zeros(4, 4)[:, ::2]], threads=1)
    with pytest.raises(ValueError, match="grad_norm: grads must be on CUDA, got cpu"):
        _C.grad_norm_cuda(grads, torch.zeros(4), torch.zeros(()))
