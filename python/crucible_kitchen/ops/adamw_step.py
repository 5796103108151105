"""`adamw_step`: one step of AdamW on many tensors, in place, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.ops._adamw_step_checks import (
    check_constants,
    check_norm,
    check_scales,
    check_shapes,
    refuse_cpu,
    refuse_cuda,
    refuse_triton,
)
from crucible_kitchen.ops._library import refuse_transforms, register
from crucible_kitchen.ops._refusals import in_order_of, several_devices_refuse
from crucible_kitchen.ops._table import Kernel, Op


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
    """One step of decoupled AdamW, in place, on all tensors in one call.

    Args:
        params: parameters, any shapes, float32 or bfloat16.
        grads: gradients, shaped as params, float32 or bfloat16; read only. One that lies otherwise
            in memory than its parameter, or has gaps, is copied first.
        exp_avgs: running means of the gradients, shaped as params, float32; or all of them
            bfloat16, rounded to nearest; or uint8, as `kernels.adamw_step.eight_bit` keeps them.
        exp_avg_sqs: running means of their squares, in the dtype of exp_avgs. In bfloat16 they are
            rounded stochastically: a step moves them by less than half of their last bit.
        step: number of this step, counted from 1; one for all or one for each tensor.
        lr: learning rate.
        betas: decay of the two running means per step, in [0, 1).
        eps: added to the root of the second mean.
        weight_decay: share of a parameter that is subtracted per unit of lr.
        grad_scale: every gradient is multiplied by it as it is read (to clip, or to average).
        norm: of all gradients as they are given, a float64 scalar on their device, such as
            `grad_norm` gives: where it is not finite the step changes nothing. The kernel reads it
            on the device, so nobody waits for it. None: the gradients are taken as they are.
        max_norm: gradients whose norm, times `grad_scale`, is greater are scaled down to it, as
            `torch.nn.utils.clip_grad_norm_` does; 0: never. It needs `norm`.
        exp_avg_scales: of moments in uint8, one tensor a parameter: a float32 for each block of 256
            elements, begun or full. Empty with other moments.
        exp_avg_sq_scales: likewise.
        stochastic_rounding: round bfloat16 parameters up or down at random, so that updates
            smaller than half a unit in the last place still add up. Without it, to nearest.
        seed: of stochastic rounding, 64 bits; take another one each step.

    Raises:
        ValueError: lists of different lengths, shapes that differ, a constant out of its range.
        KernelError: no kernel takes the device or a dtype.

    Source: Loshchilov & Hutter 2019, algorithm 2, https://arxiv.org/abs/1711.05101
    """
    refuse_transforms("adamw_step", takes_lists=True)
    steps = [step] * len(params) if isinstance(step, int) else step
    check_constants(params, steps, betas)
    scales = (list(exp_avg_scales), list(exp_avg_sq_scales))
    check_scales(params, *scales)
    check_norm(norm, max_norm)
    with torch.no_grad():
        _adamw_step(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            *scales,
            norm,
            steps,
            lr,
            *betas,
            eps,
            weight_decay,
            grad_scale,
            max_norm,
            stochastic_rounding,
            seed,
        )
    # Saved activations and packed copies of a parameter must see that it has changed.
    for changed in (params, exp_avgs, exp_avg_sqs, *scales):
        torch.autograd.graph.increment_version(changed)


def _cuda(*moved: list[Tensor], **options: Any) -> None:
    with torch.cuda.device(moved[0][0].device):
        _C.adamw_step_cuda(*_for_the_door(*moved, **options))


def _cpu(*moved: list[Tensor], **options: Any) -> None:
    _C.adamw_step_cpu(*_for_the_door(*moved, **options), threads=torch.get_num_threads())


def _for_the_door(
    *moved: list[Tensor],
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
) -> tuple[Any, ...]:
    """The arguments in the door's order."""
    lists = (*moved, list(exp_avg_scales), list(exp_avg_sq_scales))
    numbers = (lr, *betas, eps, weight_decay, grad_scale, max_norm)
    steps = [step] * len(moved[0]) if isinstance(step, int) else step
    return lists, norm, steps, numbers, stochastic_rounding, seed


ADAMW_STEP = Op(
    "adamw_step",
    kernels=(
        Kernel("cuda", f"{__name__}:_cuda", refuse_cuda),
        Kernel(
            "triton",
            "crucible_kitchen.kernels.adamw_step.triton_kernels:adamw_step",
            refuse_triton,
        ),
        Kernel("cpu", f"{__name__}:_cpu", refuse_cpu),
        Kernel(
            "reference",
            "crucible_kitchen.kernels.adamw_step.reference:adamw_step",
            lambda *moved, **options: several_devices_refuse(*moved),
        ),
    ),
)


def _run(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    exp_avg_scales: Sequence[Tensor],
    exp_avg_sq_scales: Sequence[Tensor],
    norm: Tensor | None,
    steps: Sequence[int],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    grad_scale: float,
    max_norm: float,
    stochastic_rounding: bool,
    seed: int,
) -> None:
    options: dict[str, Any] = {
        "step": steps,
        "lr": lr,
        "betas": (beta1, beta2),
        "eps": eps,
        "weight_decay": weight_decay,
        "grad_scale": grad_scale,
        "norm": norm,
        "max_norm": max_norm,
        "exp_avg_scales": exp_avg_scales,
        "exp_avg_sq_scales": exp_avg_sq_scales,
        "stochastic_rounding": stochastic_rounding,
        "seed": seed,
    }
    # There are hundreds of tensors: one look says of nearly all calls that they are as they should.
    alike = _C.alike_on_cpu(params, grads, exp_avgs, exp_avg_sqs)
    if not alike:
        check_shapes(params, grads, exp_avgs, exp_avg_sqs)
    kernel = ADAMW_STEP.choose(params, grads, exp_avgs, exp_avg_sqs, alike=alike, **options)
    if not alike:  # kernels walk memory, and grads may be anyhow in it
        grads = in_order_of(params, grads)
    kernel(params, grads, exp_avgs, exp_avg_sqs, **options)


def _fake(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *others: Any,
) -> None:
    """Changes its arguments and makes nothing."""
    check_shapes(params, grads, exp_avgs, exp_avg_sqs)


_adamw_step = register(
    "adamw_step(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] exp_avg_scales, Tensor(e!)[] exp_avg_sq_scales, "
    "Tensor? norm, int[] steps, float lr, float beta1, float beta2, float eps, "
    "float weight_decay, float grad_scale, float max_norm, bool stochastic_rounding, int seed) "
    "-> ()",
    _run,
    _fake,
)
