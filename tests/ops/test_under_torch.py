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
GAINS = made(N).abs()
BOUNDS, ANGLES = torch.tensor([0, 2, M]), made(M, K // 2)
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
OPS |= {
    "dora_linear": (
        lambda x: ops.dora_linear(x, W, A, B, GAINS, 2.0, BIAS),
        lambda x: functional.linear(x, _decomposed(W + 2.0 * B @ A), BIAS),
    ),
    "lora_linear_many": (
        lambda x: torch.cat(ops.lora_linear_many(x, [W, W], [A, A], [B, -B], [2.0, 1.0]), dim=1),
        lambda x: functional.linear(x, torch.cat([W + 2.0 * B @ A, W - B @ A])),
    ),
    "rope": (lambda x: ops.rope(x[:, None], ANGLES.cos(), ANGLES.sin()), lambda x: _turned(x)),
    "varlen_attention": (
        lambda x: ops.varlen_attention(x[:, None], x[:, None], UP[:, None], BOUNDS),
        lambda x: _attended(x),
    ),
}
each_op = pytest.mark.parametrize("name", OPS)


def _decomposed(weight: Tensor) -> Tensor:
    return GAINS[:, None] * functional.normalize(weight)


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    cos, sin = ANGLES.cos(), ANGLES.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=1)[:, None]


def _attended(x: Tensor) -> Tensor:
    parts = zip(*(torch.split(t[None], [2, M - 2], dim=1) for t in (x, x, UP)), strict=True)
    made = [functional.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
    return torch.cat(made, dim=1).transpose(0, 1)


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
    # What nearly cancels, as in attention's scores, is rounding in torch's gradient too.
    exact = X.clone().requires_grad_()
    theirs(exact).sum().backward()
    theirs_off = (y.grad - exact.grad).norm()
    assert (x.grad - exact.grad).norm() <= theirs_off + 2e-2 * exact.grad.norm()


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


XS = made(3, M, K)
STEP = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0}


@pytest.mark.parametrize("name", [name for name in OPS if name != "lora_linear_many"])
def test_vmap(name: str) -> None:
    ours, _ = OPS[name]
    want = torch.stack([ours(x) for x in XS])
    assert (torch.func.vmap(ours)(XS) - want).norm() <= 1e-6 * want.norm()


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("lora_linear_many", OPS["lora_linear_many"][0]),
        ("grad_norm", lambda x: ops.grad_norm([x])),
        ("adamw_step", lambda x: ops.adamw_step([x], [x], [x], [x], step=1, **STEP)),
    ],
)
def test_ops_of_lists_are_mapped_in_a_loop(name: str, call: Callable[[Tensor], Any]) -> None:
    with pytest.raises(KernelError, match=rf"{name}: torch\.func\.vmap is not supported"):
        torch.func.vmap(call)(XS)
    with pytest.raises(KernelError, match=rf"{name}: torch\.func\.grad, jvp"):
        torch.func.grad(lambda x: call(x).sum())(X)


def test_the_norm_of_gradients_is_a_constant() -> None:
    assert not ops.grad_norm([X.clone().requires_grad_()]).requires_grad


def test_functional_call() -> None:
    from crucible_kitchen.nn import LoraLinear

    layer = LoraLinear(torch.nn.Linear(K, N), rank=R, alpha=4.0)
    other = {"lora_b": B}
    got = torch.func.functional_call(layer, other, X)
    assert not torch.allclose(got, layer(X))
    layer.load_state_dict(other, strict=False)
    assert torch.equal(got, layer(X))
