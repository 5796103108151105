"""AdamW, by the book: one tensor after another, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.hash import BITS, mix, mix_tensor, seed_key

from .eight_bit import dequantize, quantize_into


def adamw_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *,
    step: int | Sequence[int],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    grad_scale: float = 1.0,
    norm: Tensor | None = None,
    max_norm: float = 0.0,
    exp_avg_scales: Sequence[Tensor] = (),
    exp_avg_sq_scales: Sequence[Tensor] = (),
    stochastic_rounding: bool = False,
    seed: int = 0,
) -> None:
    """One step of algorithm 2 of Loshchilov & Hutter 2019, in place; letters as in README.md."""
    if norm is not None and not math.isfinite(norm):
        return
    if norm is not None and max_norm:
        grad_scale *= min(1.0, max_norm / (grad_scale * float(norm) + 1e-6))
    beta1, beta2 = betas
    steps = [step] * len(params) if isinstance(step, int) else step
    for i, (p, g, m, v, t) in enumerate(
        zip(params, grads, exp_avgs, exp_avg_sqs, steps, strict=True)
    ):
        m_wide = dequantize(m, exp_avg_scales[i], signed=True) if exp_avg_scales else m
        v_wide = dequantize(v, exp_avg_sq_scales[i], signed=False) if exp_avg_sq_scales else v
        g64 = grad_scale * g.double()
        m64 = beta1 * m_wide.double() + (1 - beta1) * g64
        v64 = beta2 * v_wide.double() + (1 - beta2) * g64**2
        m_hat = m64 / (1 - beta1**t)
        v_hat = v64 / (1 - beta2**t)
        p64 = (1 - lr * weight_decay) * p.double() - lr * m_hat / (v_hat.sqrt() + eps)
        if exp_avg_scales:
            quantize_into(m, exp_avg_scales[i], m64, signed=True)
            quantize_into(v, exp_avg_sq_scales[i], v64, signed=False)
        else:
            m.copy_(m64)
            v.copy_(_rounded(v64, v.dtype, ~i, seed))
        p.copy_(_rounded(p64, p.dtype, i, seed) if stochastic_rounding else p64)


def _rounded(exact: Tensor, dtype: torch.dtype, coordinate: int, seed: int) -> Tensor:
    """Stochastically to bfloat16; as it is for other dtypes."""
    if dtype != torch.bfloat16:
        return exact
    return round_stochastically(exact.float(), coordinate=coordinate, seed=seed)


def round_stochastically(x: Tensor, *, coordinate: int, seed: int) -> Tensor:
    """Round float32 to bfloat16, up with the probability of the fraction cut off.

    The noise is a hash of seed, coordinate and element, so it is the same on every backend and for
    every number of threads. Two neighbours share a hash: the even one has its lower half.

    Args:
        x: float32, finite.
        coordinate: i for parameter i, ~i for its running mean of squares.
        seed: 64 bits; take another one each step.
    """
    key = mix(seed_key(seed) ^ (coordinate & BITS))
    element = torch.arange(x.numel(), dtype=torch.int64, device=x.device)
    shared = mix_tensor(element >> 1 ^ key)
    noise = torch.where(element % 2 == 1, shared >> 16, shared & 0xFFFF)
    bits = x.flatten().view(torch.int32).to(torch.int64) + noise
    cut = (bits >> 16 << 16).to(torch.int32).view(torch.float32)
    return cut.view(x.shape).to(torch.bfloat16)
