"""AdamW in Triton: all tensors of one pair of dtypes in one launch, by tables of addresses."""

# Triton's language is not annotated.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from crucible_kitchen.kernels.common.blocks import blocks_of
from crucible_kitchen.kernels.common.hash import key_argument
from crucible_kitchen.kernels.common.triton_hash import mix

_BLOCK = 2048


@triton.jit(do_not_specialize=["seed_key"])
def _update(
    like_param,  # a tensor of the parameters' dtype; only its type is used
    like_grad,
    like_moment,
    norm,  # of the gradients, a float64 scalar; None: they are not looked at
    addresses,  # [TENSORS, 4] of params, grads, exp_avgs, exp_avg_sqs
    sizes,  # [TENSORS, 2]: elements; place in the caller's list
    corrections,  # [TENSORS, 2]: lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
    blocks,  # [BLOCKS, 2]: tensor, first element
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    decay,
    eps,
    grad_scale,
    max_norm,  # infinite: no clipping
    seed_key,
    GUARDED: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tensor = tl.load(blocks + tl.program_id(0) * 2)
    element = tl.load(blocks + tl.program_id(0) * 2 + 1) + tl.arange(0, BLOCK)  # [BLOCK]
    size = tl.load(sizes + tensor * 2)
    if GUARDED:
        total = tl.load(norm)
        size = tl.where(total < float("inf"), size, 0)  # NaN is not: nothing is stored
        clip = tl.minimum(max_norm / (total * grad_scale + 1e-6), 1.0)
        grad_scale = (grad_scale * clip).to(tl.float32)
    inside = element < size
    p_ptr = tl.load(addresses + tensor * 4).to(like_param.dtype) + element
    g_ptr = tl.load(addresses + tensor * 4 + 1).to(like_grad.dtype) + element
    m_ptr = tl.load(addresses + tensor * 4 + 2).to(like_moment.dtype) + element
    v_ptr = tl.load(addresses + tensor * 4 + 3).to(like_moment.dtype) + element
    step_size = tl.load(corrections + tensor * 2)
    root_correction = tl.load(corrections + tensor * 2 + 1)

    g = tl.load(g_ptr, mask=inside, other=0.0).to(tl.float32) * grad_scale  # [BLOCK]
    m = beta1 * tl.load(m_ptr, mask=inside, other=0.0) + one_minus_beta1 * g
    v = beta2 * tl.load(v_ptr, mask=inside, other=0.0) + one_minus_beta2 * g * g
    p = tl.load(p_ptr, mask=inside, other=0.0).to(tl.float32)
    p = decay * p - step_size * m / (tl.sqrt_rn(v) * root_correction + eps)
    tl.store(m_ptr, m, mask=inside)
    tl.store(v_ptr, v, mask=inside)
    if STOCHASTIC:
        key = mix(seed_key.to(tl.uint32) ^ tl.load(sizes + tensor * 2 + 1).to(tl.uint32))
        shared = mix((element >> 1).to(tl.uint32) ^ key)  # by two neighbours
        noise = tl.where(element % 2 == 1, shared >> 16, shared & 0xFFFF)
        bits = p.to(tl.uint32, bitcast=True) + noise
        p = ((bits >> 16) << 16).to(tl.float32, bitcast=True)
    tl.store(p_ptr, p.to(like_param.dtype.element_ty), mask=inside)


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
    """One step in place; arguments as in reference.py, each tensor dense and wide."""
    assert not exp_avg_scales, "moments in 8 bits were refused"
    assert not exp_avg_sq_scales
    assert all(moment.dtype == torch.float32 for moment in exp_avgs), "as were those in bfloat16"
    steps = [step] * len(params) if isinstance(step, int) else step
    groups: dict[tuple[torch.dtype, torch.dtype], list[int]] = defaultdict(list)
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if param.numel():
            groups[param.dtype, grad.dtype].append(i)
    for (param_dtype, _), members in groups.items():
        device, first = params[members[0]].device, members[0]
        tensors = [(params[i], grads[i], exp_avgs[i], exp_avg_sqs[i]) for i in members]
        addresses = torch.tensor([[t.data_ptr() for t in four] for four in tensors])
        sizes = torch.tensor([[params[i].numel(), i] for i in members])
        corrections = torch.tensor(
            [
                (lr / (1 - betas[0] ** steps[i]), (1 - betas[1] ** steps[i]) ** -0.5)
                for i in members
            ],
            dtype=torch.float32,
        )
        blocks = blocks_of(sizes[:, 0], _BLOCK)
        _update[(len(blocks),)](
            params[first],
            grads[first],
            exp_avgs[first],
            norm,
            addresses.to(device),
            sizes.to(device),
            corrections.to(device),
            blocks.to(device),
            betas[0],
            1 - betas[0],
            betas[1],
            1 - betas[1],
            1 - lr * weight_decay,
            eps,
            grad_scale,
            max_norm or float("inf"),
            key_argument(seed),
            GUARDED=norm is not None,
            STOCHASTIC=stochastic_rounding and param_dtype == torch.bfloat16,
            BLOCK=_BLOCK,
        )
