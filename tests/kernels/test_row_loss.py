"""What the conformance test cannot see of row_loss: threads, edges, torch's machinery, checks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.row_loss import cases
from crucible_kitchen.kernels.row_loss.preference import DIVERGENCES
from crucible_kitchen.kernels.row_loss.reference import FORMULAS
from crucible_kitchen.kernels.row_loss.reference import row_loss as definition
from crucible_kitchen.kernels.row_loss.terms import Settings, Term

SIZES = {name: cases.SIZES[f"odd_{name}"] for name in FORMULAS}


def leaves(size: cases.Size, dtype: torch.dtype = torch.float64) -> list[Any]:
    columns = list(cases.inputs(size, dtype, "cpu"))
    for i in cases.GRADIENTS:
        if columns[i] is not None:
            columns[i].requires_grad_()
    return columns


def trained(columns: list[Any]) -> list[Tensor]:
    return [columns[i] for i in cases.GRADIENTS if columns[i] is not None]


def test_the_door_and_the_definition_have_the_same_names() -> None:
    assert tuple(_C.row_loss_formulas) == FORMULAS
    assert _C.row_loss_divergences == list(DIVERGENCES)


def test_the_compiled_kernel_is_what_runs() -> None:
    size = SIZES["ppo"]
    explanation = ops.explain("row_loss", *leaves(size), **cases.options(size))
    assert explanation.chosen == "cpu"


@pytest.mark.parametrize("name", FORMULAS)
def test_bits_do_not_depend_on_the_number_of_threads(name: str) -> None:
    size = SIZES[name]._replace(rows=5000)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            columns = leaves(size)
            loss = ops.row_loss(*columns, **cases.options(size))
            results.append([loss, *torch.autograd.grad(loss.sum(), trained(columns))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "name", [name for name in FORMULAS if name != "cispo"]
)  # sg is not its own
def test_slopes_are_those_of_the_values(name: str) -> None:
    size = SIZES[name]._replace(rows=7)
    columns = leaves(size)
    constants, count = columns[2:], len(trained(columns))

    def loss(*first: Tensor) -> Tensor:
        pair = first if count == 2 else (*first, None)
        return ops.row_loss(*pair, *constants, **cases.options(size))

    assert torch.autograd.gradcheck(loss, trained(columns))


@pytest.mark.parametrize("name", FORMULAS)
def test_nan_stays_nan(name: str) -> None:
    size = SIZES[name]
    columns = leaves(size)
    with torch.no_grad():
        columns[0][3] = math.nan
    loss = ops.row_loss(*columns, **cases.options(size))
    assert loss[3].isnan()
    assert loss.isfinite().sum() == size.rows - 1


@pytest.mark.parametrize("name", FORMULAS)
def test_second_derivatives_are_those_of_the_definition(name: str) -> None:
    size = SIZES[name]
    columns, theirs = leaves(size), leaves(size)
    seconds = []
    for call, given in ((ops.row_loss, columns), (definition, theirs)):
        loss = call(*given, **cases.options(size))
        first = torch.autograd.grad(loss.sum(), trained(given), create_graph=True)
        total = sum(one.square().sum() for one in first)
        if isinstance(total, Tensor) and total.requires_grad:
            seconds.append(torch.autograd.grad(total, trained(given), allow_unused=True))
        else:
            seconds.append((None,))
    for got, want in zip(*seconds, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_one_tensor_may_be_both_columns() -> None:
    size = SIZES["bradley_terry"]
    both = torch.randn(5, dtype=torch.float64, requires_grad=True)
    options = cases.options(size)
    for create_graph in (False, True):
        got, want = (
            torch.autograd.grad(call(both, both, **options).sum(), both, create_graph=create_graph)
            for call in (ops.row_loss, definition)
        )
        torch.testing.assert_close(got, want)


# torch.func.jvp loads torch's own decompositions.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_transforms_are_followed_by_the_definition() -> None:
    size = SIZES["sigmoid"]
    first, *rest = (t.detach() for t in leaves(size))

    def of(call: Any) -> Any:
        return lambda x: call(x, *rest, **cases.options(size))

    tangent = torch.ones_like(first)
    for got, want in (
        (
            torch.func.grad(lambda x: of(ops.row_loss)(x).sum())(first),
            torch.func.grad(lambda x: of(definition)(x).sum())(first),
        ),
        (
            torch.func.jvp(of(ops.row_loss), (first,), (tangent,))[1],
            torch.func.jvp(of(definition), (first,), (tangent,))[1],
        ),
        (torch.func.vmap(of(ops.row_loss))(first[None])[0], of(definition)(first)),
    ):
        assert want.norm() > 0
        torch.testing.assert_close(got, want)


def test_a_constant_that_needs_a_gradient_gets_one() -> None:
    size = SIZES["dro"]
    first, second, q, advantage = leaves(size)
    q.requires_grad_()
    explanation = ops.explain("row_loss", first, second, q, advantage, **cases.options(size))
    assert explanation.chosen == "reference"
    assert "constants[0] requires a gradient" in str(explanation)
    loss = ops.row_loss(first, second, q, advantage, **cases.options(size))
    (got,) = torch.autograd.grad(loss.sum(), q)
    assert got.norm() > 0


def test_half_precision_is_left_to_the_definition_with_a_reason() -> None:
    size = SIZES["ppo"]
    columns = leaves(size, torch.float16)
    explanation = ops.explain("row_loss", *columns, **cases.options(size))
    assert explanation.chosen == "reference"
    assert "first is torch.float16" in str(explanation)
    loss = ops.row_loss(*columns, **cases.options(size))
    assert loss.dtype == torch.float16


def test_slices_and_mixed_dtypes_are_read_where_they_lie() -> None:
    sums = torch.randn(20, dtype=torch.float64)
    reference = torch.randn(20)
    columns = (sums[0::2], sums[1::2], reference[0::2], reference[1::2])
    options: dict[str, Any] = {"terms": [Term("sigmoid")], "settings": Settings(beta=0.3)}
    assert ops.explain("row_loss", *columns, **options).chosen == "cpu"
    got, want = (call(*columns, **options) for call in (ops.row_loss, definition))
    torch.testing.assert_close(got, want)


ROW, TERMS = torch.zeros(3), [Term("ppo")]


@pytest.mark.parametrize(
    ("columns", "changed", "error", "said"),
    [
        ((ROW, ROW[:2]), {}, ValueError, r"second must have shape \[P\] = \[3\], got \[2\]"),
        ((ROW[None],), {}, ValueError, r"first must have shape \[P\], got \[1, 3\]"),
        ((ROW.int(),), {}, TypeError, "first must be floating point, got torch.int32"),
        ((ROW, None, ROW.to("meta")), {}, ValueError, r"constants\[0\] must be on first's device"),
        ((ROW,) * 8, {}, ValueError, "constants must be 5 at most, got 6"),
        ((ROW,), {"terms": []}, ValueError, "terms must be 1 to 16, got 0"),
        ((ROW,), {"terms": [Term("pppo")]}, ValueError, "did you mean 'ppo'"),
        (
            (ROW,),
            {"settings": Settings(divergence="kl")},
            ValueError,
            "divergence must be one of reverse_kl, forward_kl, js, alpha, got 'kl'",
        ),
    ],
)
def test_a_wrong_argument_is_named(
    columns: Any, changed: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=f"row_loss: .*{said}"):
        ops.row_loss(*columns, **{"terms": TERMS, **changed})


def test_the_door_names_what_it_refuses() -> None:
    def call(**changed: Any) -> None:
        args = {
            "columns": [ROW, None, ROW, ROW, None, None, None],
            "terms": [(0, 1.0, 0.0)],
            "divergence": 0,
            "numbers": [1.0] * 7,
            "loss": torch.empty(3),
            "slopes": torch.empty(1, 3),
            "threads": 1,
        }
        _C.row_loss_cpu(*{**args, **changed}.values())

    call()
    for changed, said in (
        ({"columns": [ROW]}, "columns must be 7, got 1"),
        ({"columns": [ROW, None, ROW[:2], *[None] * 4]}, r"constants\[0\] must have shape \[P\]"),
        ({"terms": []}, "terms must be 1 to 16, got 0"),
        ({"terms": [(99, 1.0, 0.0)]}, "a formula must be an index into row_loss_formulas, got 99"),
        ({"divergence": -1}, "divergence must be an index into row_loss_divergences, got -1"),
        ({"loss": torch.empty(2)}, r"loss must have shape \[P\] = \[3\], got \[2\]"),
        ({"slopes": torch.empty(2, 3)}, r"slopes must have shape \[1 or 2, P\] = \[1, 3"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=f"row_loss: {said}"):
            call(**changed)
    with pytest.raises(
        TypeError, match=r"constants\[0\] must be torch.float32, .* got torch.int64"
    ):
        call(columns=[ROW, None, ROW.long(), *[None] * 4])
    with pytest.raises(ValueError, match="row_loss: first must be on CUDA, got cpu"):
        _C.row_loss_cuda([ROW], [], 0, [1.0] * 7, ROW, ROW)
