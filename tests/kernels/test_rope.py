"""What the conformance test cannot see of rope: lengths kept, transformers' angles, checks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.rope import cases

ON_THE_CPU = (torch.float32, torch.bfloat16)  # what the compiled kernel takes


def inputs(size: str = "many_tokens", dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return cases.inputs(cases.SIZES[size], dtype, "cpu")


def test_the_cpu_kernel_is_chosen() -> None:
    x, cos, sin = inputs()
    assert ops.explain("rope", x, cos, sin).chosen == "cpu"
    assert ops.explain("rope", x.half(), cos, sin).chosen == "reference"


def test_it_is_the_rotation_of_transformers() -> None:
    x, cos, sin = inputs()
    query = x.transpose(0, 1)[None]
    wide = (angles.repeat(1, 2)[None] for angles in (cos, sin))
    want, _ = apply_rotary_pos_emb(query, query, *wide)
    torch.testing.assert_close(ops.rope(x, cos, sin), want[0].transpose(0, 1))


def test_the_backward_turns_back() -> None:
    x, cos, sin = inputs()
    x.requires_grad_()
    y = ops.rope(x, cos, sin)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert {t.data_ptr() for t in y.grad_fn.saved_tensors} == {cos.data_ptr(), sin.data_ptr()}
    (back,) = torch.autograd.grad(y, x, y.detach())
    torch.testing.assert_close(back, x.detach())


@pytest.mark.parametrize("dtype", ON_THE_CPU)
def test_the_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    x, cos, sin = inputs(dtype=dtype)
    one, three = torch.empty_like(x), torch.empty_like(x)
    _C.rope_rotate(x, cos, sin, False, one, 1)
    _C.rope_rotate(x, cos, sin, False, three, 3)
    assert torch.equal(one, three)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda x, c, s: (x[0], c, s), ValueError, "x must have shape .T, A, D. with an even D"),
        (lambda x, c, s: (x[..., 1:], c, s), ValueError, "an even D, got .301, 5, 79."),
        (lambda x, c, s: (x.long(), c, s), TypeError, "x must be floating point, got torch.int64"),
        (lambda x, c, s: (x, c[:-1], s), ValueError, "cos must have shape .T, D / 2. = .301, 40."),
        (lambda x, c, s: (x, c, s.repeat(1, 2)), ValueError, "sin must have shape"),
        (lambda x, c, s: (x, c.double(), s), TypeError, "cos must be torch.float32"),
        (lambda x, c, s: (x, c, s.to("meta")), ValueError, "sin must be on x's device, cpu"),
    ],
)
def test_wrong_arguments_are_named(change, error, said) -> None:
    with pytest.raises(error, match=f"rope: .*{said}"):
        ops.rope(*change(*inputs()))


def test_the_door_checks_too() -> None:
    x, cos, sin = inputs()
    with pytest.raises(ValueError, match="rope: y must have shape"):
        _C.rope_rotate(x, cos, sin, False, torch.empty(3, 5, 80), 1)
    with pytest.raises(ValueError, match="rope: x must be contiguous"):
        _C.rope_rotate(torch.empty(5, 301, 80).transpose(0, 1), cos, sin, False, x, 1)
