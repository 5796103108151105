"""`dora_linear`: a frozen layer and its low-rank update, each output at a trained magnitude.

It is `lora_linear` and a factor for each output, so it has no kernels of its own.

Letters as there; n is the norm of each row of W + s B A, m the magnitudes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crucible_kitchen.ops._library import refuse_transforms
from crucible_kitchen.ops._lora_linear_checks import check_lora_linear
from crucible_kitchen.ops.lora_linear import lora_linear

_NAME = "dora_linear"
# Of W + s B A at a time: together they stay in a cache, alone they would be many small products.
_ROWS = 512


def dora_linear(
    x: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    magnitude: Tensor,
    scale: float,
    bias: Tensor | None = None,
    *,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """y = m / n * (x W^T + scale (x A^T) B^T) (+ bias): weight-decomposed low-rank adaptation.

    Differentiable in x, A, B, m and bias. The norms n are those of the weights as they are, and
    constants in the gradient, as the paper proposes (section 4.3) and PEFT does.

    Args:
        x: activations, [..., K], float32, bfloat16 or float16.
        weight: the frozen weight W, [N, K], in x's dtype.
        lora_a: A, [R, K], in x's dtype or float32.
        lora_b: B, [N, R], in x's dtype or float32.
        magnitude: m, [N], floating point. `dora_norm` of the untrained weights leaves the layer as
            it was.
        scale, bias, dropout, seed: as `lora_linear` takes them; the mask is for the update alone.

    Returns:
        y, [..., N], in x's dtype. The backward keeps the product before its factor beside what
        that of `lora_linear` keeps.

    Raises:
        ValueError, TypeError, KernelError: as `lora_linear`, and for a magnitude that does not fit.

    Source: Liu et al. 2024, eq. 5, https://arxiv.org/abs/2402.09353
    """
    refuse_transforms(_NAME)
    N = weight.shape[0] if weight.ndim else 0
    if magnitude.shape != (N,):
        got = f"{list(magnitude.shape)} ({magnitude.dtype})"
        raise ValueError(f"{_NAME}: magnitude must have shape [N] = [{N}], got {got}")
    if not magnitude.is_floating_point():
        raise TypeError(f"{_NAME}: magnitude must be floating point, got {magnitude.dtype}")
    product = lora_linear(x, weight, lora_a, lora_b, scale, dropout=dropout, seed=seed)
    factor = magnitude.float() / dora_norm(weight, lora_a, lora_b, scale)
    y = product * factor if bias is None else torch.addcmul(bias.float(), product.float(), factor)
    return y.to(product.dtype)


@torch.no_grad()
def dora_norm(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """The norm of each row of W + scale B A, which is made some rows at a time.

    It is as much work as R more rows of x. (The square as a sum, ``|w|^2 + 2 scale b . (A w) +
    scale^2 b . (A A^T) b``, makes none of it, but loses what the parts cancel.)

    Args:
        weight: W, [N, K]; lora_a: A, [R, K]; lora_b: B, [N, R].
        scale: alpha / rank, dimensionless.

    Returns:
        float32 [N], a constant; at least the smallest normal number, so that a row of zeros, whose
        magnitude is 0, gives zeros.

    Raises:
        ValueError, TypeError: shapes, devices or dtypes that do not fit.
    """
    check_lora_linear("dora_norm", weight.detach(), weight.detach(), lora_a, lora_b, None)
    with torch.autocast(weight.device.type, enabled=False):
        a, b = lora_a.float(), lora_b.float()
        rows = zip(torch.split(weight, _ROWS), torch.split(b, _ROWS), strict=True)
        norms = [torch.addmm(w.float(), b, a, alpha=scale).norm(dim=1) for w, b in rows]
        return torch.cat(norms).clamp_min(torch.finfo(torch.float32).tiny)
