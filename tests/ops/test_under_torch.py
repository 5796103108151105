"""Ops inside torch's own machinery: autocast, transforms, second derivatives, one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from crucible_kitchen import ops
from crucible_kitchen.errors import KernelError

# torch.func.jvp loads torch's own decompositions.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

M, N, K, R = 5, 7, 6, 2


def made(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# Made beforehand: vmap refuses to draw.
X, W, A, B, BIAS, GAIN, UP = (
    made(*s) for s in ((M, K), (N, K), (R, K), (N, R), (N,), (K,), (K, M))
)
UP = UP.T.contiguous()
TARGETS = torch.arange(M) % N
# Each op as a function of its first argument, and what plain torch makes of it.
OPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "lora_linear": (
        lambda x: ops.lora_linear(x, W, A, B, 2.0, BIAS),
        lambda x: (
            functional.linear(x, W, BIAS) + 2.0 * functional.linear(functional.linear(x, A), B)
        ),
    ),
    "rms_norm": (
        lambda x: ops.rms_norm(x, GAIN, 1e-6),
        lambda x: functional.rms_norm(x, (K,), GAIN, 1e-6),
    ),
    "swiglu": (
        lambda x: ops.swiglu(x, UP),
        lambda x: functional.silu(x) * UP,
    ),
    "linear_logprobs": (
        lambda x: ops.linear_logprobs(x, W, TARGETS),
        lambda x: (
            -functional.cross_entropy(functional.linear(x, W).float(), TARGETS, reduction="none")
        ),
    ),
    "linear_cross_entropy": (
        lambda x: ops.linear_cross_entropy(x, W, TARGETS),
        lambda x: functional.cross_entropy(functional.linear(x, W).float(), TARGETS),
    ),
}
each_op = pytest.mark.parametrize("name", OPS)


@each_op
def test_under_autocast_as_torch_under_autocast(name: str) -> None:
    ours, theirs = OPS[name]
    x, y = (X.clone().requires_grad_() for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        got, want = ours(x), theirs(y)
    assert got.dtype == want.dtype
    assert (got - want).float().norm() <= 2e-2 * want.float().norm()
    got.float().sum().backward()
    want.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert (x.grad - y.grad).norm() <= 2e-2 * y.grad.norm()


@each_op
def test_under_activation_checkpointing(name: str) -> None:
    ours, _ = OPS[name]
    x, y = (X.clone().requires_grad_() for _ in range(2))
    kept = torch.utils.checkpoint.checkpoint(ours, x, use_reentrant=False)
    kept.sum().backward()
    ours(y).sum().backward()
    assert torch.equal(x.grad, y.grad)


@each_op
@pytest.mark.parametrize(
    "transform",
    [
        lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
        lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
        lambda f, x: torch.func.hessian(lambda x: f(x).sum())(x),
        lambda f, x: torch.func.jvp(torch.func.vmap(f), (x[None],), (x[None],)),
    ],
    ids=["grad", "jvp", "hessian", "jvp of vmap"],
)
def test_transforms_it_does_not_follow_are_refused(name: str, transform: Any) -> None:
    with pytest.raises(KernelError, match=rf"{name}: torch\.func\.grad, jvp"):
        transform(OPS[name][0], X)


@each_op
def test_forward_mode_is_refused(name: str) -> None:
    with forward_ad.dual_level(), pytest.raises(KernelError, match=f"{name}: .* forward-mode"):
        OPS[name][0](forward_ad.make_dual(X, torch.ones(M, K)))


@each_op
def test_second_derivatives_are_refused(name: str) -> None:
    x = X.clone().requires_grad_()
    with pytest.raises(KernelError, match="create_graph must be False"):
        torch.autograd.grad(OPS[name][0](x).sum(), x, create_graph=True)


def test_vmap() -> None:
    ours, _ = OPS["lora_linear"]
    x = made(3, M, K)
    assert (torch.func.vmap(ours)(x) - ours(x)).norm() <= 1e-6 * ours(x).norm()


def test_functional_call() -> None:
    from crucible_kitchen.nn import LoraLinear

    layer = LoraLinear(torch.nn.Linear(K, N), rank=R, alpha=4.0)
    other = {"lora_b": B}
    got = torch.func.functional_call(layer, other, X)
    assert not torch.allclose(got, layer(X))
    layer.load_state_dict(other, strict=False)
    assert torch.equal(got, layer(X))
