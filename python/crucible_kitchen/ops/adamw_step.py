"""`adamw_step`: one step of AdamW on many tensors, in place, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.ops._library import register
from crucible_kitchen.ops._refusals import (
    cpu_refuses,
    cuda_refuses,
    same_layout_refuses,
    triton_refuses,
)
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
    stochastic_rounding: bool = False,
    seed: int = 0,
) -> None:
    """One step of decoupled AdamW, in place, on all tensors in one call.

    Args:
        params: parameters, any shapes, float32 or bfloat16.
        grads: gradients, shaped as params, float32 or bfloat16; read only.
        exp_avgs: running means of the gradients, shaped as params, float32.
        exp_avg_sqs: running means of their squares, shaped as params, float32.
        step: number of this step, counted from 1; one for all or one for each tensor.
        lr: learning rate.
        betas: decay of the two running means per step, in [0, 1).
        eps: added to the root of the second mean.
        weight_decay: share of a parameter that is subtracted per unit of lr.
        grad_scale: every gradient is multiplied by it as it is read (to clip, or to average).
        stochastic_rounding: round bfloat16 parameters up or down at random, so that updates
            smaller than half a unit in the last place still add up. Without it, to nearest.
        seed: of that rounding, 64 bits; take another one each step.

    Raises:
        ValueError: lists of different lengths, shapes that differ, a constant out of its range.
        KernelError: no kernel takes the device or a dtype.

    Source: Loshchilov & Hutter 2019, algorithm 2, https://arxiv.org/abs/1711.05101
    """
    steps = [step] * len(params) if isinstance(step, int) else step
    _check(params, grads, exp_avgs, exp_avg_sqs, steps, betas)
    with torch.no_grad():
        _adamw_step(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            steps,
            lr,
            *betas,
            eps,
            weight_decay,
            grad_scale,
            stochastic_rounding,
            seed,
        )
    # Saved activations and packed copies of a parameter must see that it has changed.
    for changed in (params, exp_avgs, exp_avg_sqs):
        torch.autograd.graph.increment_version(changed)


def _check(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[int],
    betas: tuple[float, float],
) -> None:
    if len(steps) != len(params):
        raise ValueError(
            f"adamw_step: step must be one number or {len(params)}, one a tensor, got {len(steps)}"
        )
    if steps and min(steps) < 1:
        raise ValueError(f"adamw_step: step must be counted from 1, got {min(steps)}")
    for name, beta in zip(("betas[0]", "betas[1]"), betas, strict=True):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"adamw_step: {name} must be in [0, 1), got {beta}")
    # There are hundreds of tensors: map and == stay in C.
    wanted = list(map(Tensor.size, params))
    named = (("grads", grads), ("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs))
    for name, tensors in named:
        if (got := list(map(Tensor.size, tensors))) != wanted:
            raise ValueError(_mismatch(name, wanted, got))


def _mismatch(name: str, wanted: list[torch.Size], got: list[torch.Size]) -> str:
    if len(got) != len(wanted):
        return f"adamw_step: {name} must have {len(wanted)} tensors, as params, got {len(got)}"
    i = next(i for i, (want, have) in enumerate(zip(wanted, got, strict=True)) if want != have)
    return (
        f"adamw_step: {name}[{i}] must have the shape of params[{i}], {list(wanted[i])}, "
        f"got {list(got[i])}"
    )


_NARROW = {torch.float32, torch.bfloat16}


def _dense_refuses(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
) -> str | None:
    """Why a kernel that walks flat memory cannot take these, or None."""
    # Hundreds of tensors: one pass for each question.
    moments = (*exp_avgs, *exp_avg_sqs)
    if len({tensor.device for tensors in (params, grads, moments) for tensor in tensors}) > 1:
        return "the tensors are on several devices"
    for name, tensors in (("params", params), ("grads", grads)):
        if others := {tensor.dtype for tensor in tensors} - _NARROW:
            return f"{name} must be float32 or bfloat16, got {others.pop()}"
    if others := {tensor.dtype for tensor in moments} - {torch.float32}:
        return f"exp_avgs and exp_avg_sqs must be float32, got {others.pop()}"
    return same_layout_refuses(params, grads, exp_avgs, exp_avg_sqs)


def _triton_refuses(params: Sequence[Tensor], *others: Sequence[Tensor], **_: Any) -> str | None:
    if not params:
        return "there is no tensor to find the device by"
    return triton_refuses(params[0]) or _dense_refuses(params, *others)


def _cuda_refuses(params: Sequence[Tensor], *others: Sequence[Tensor], **_: Any) -> str | None:
    if not params:
        return "there is no tensor to find the device by"
    return cuda_refuses(params[0]) or _dense_refuses(params, *others)


def _cpu_refuses(params: Sequence[Tensor], *others: Sequence[Tensor], **_: Any) -> str | None:
    return (cpu_refuses(params[0]) if params else None) or _dense_refuses(params, *others)


def _cuda(params: list[Tensor], *others: list[Tensor], **options: Any) -> None:
    with torch.cuda.device(params[0].device):
        _C.adamw_step_cuda(params, *others, *_constants(**options))


def _cpu(params: list[Tensor], *others: list[Tensor], **options: Any) -> None:
    _C.adamw_step_cpu(params, *others, *_constants(**options), threads=torch.get_num_threads())


def _constants(
    step: Sequence[int],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    grad_scale: float,
    stochastic_rounding: bool,
    seed: int,
) -> tuple[Any, ...]:
    """The constants in the door's order."""
    return step, lr, *betas, eps, weight_decay, grad_scale, stochastic_rounding, seed


ADAMW_STEP = Op(
    "adamw_step",
    kernels=(
        Kernel("cuda", f"{__name__}:_cuda", _cuda_refuses),
        Kernel(
            "triton",
            "crucible_kitchen.kernels.adamw_step.triton_kernels:adamw_step",
            _triton_refuses,
        ),
        Kernel("cpu", f"{__name__}:_cpu", _cpu_refuses),
        Kernel(
            "reference",
            "crucible_kitchen.kernels.adamw_step.reference:adamw_step",
            lambda *args, **options: None,
        ),
    ),
)


def _run(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[int],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    grad_scale: float,
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
        "stochastic_rounding": stochastic_rounding,
        "seed": seed,
    }
    kernel = ADAMW_STEP.choose(params, grads, exp_avgs, exp_avg_sqs, **options)
    kernel(params, grads, exp_avgs, exp_avg_sqs, **options)


def _fake(*args: Any) -> None:
    """Changes its arguments and makes nothing."""


_adamw_step = register(
    "adamw_step(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    "Tensor(c!)[] exp_avg_sqs, int[] steps, float lr, float beta1, float beta2, float eps, "
    "float weight_decay, float grad_scale, bool stochastic_rounding, int seed) -> ()",
    _run,
    _fake,
)
