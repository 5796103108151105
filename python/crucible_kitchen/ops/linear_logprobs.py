"""`linear_logprobs`: log-probabilities of targets under a linear head, without the logits.

`score` is the same op with the options that the losses use.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from crucible_kitchen.kernels.linear_logprobs.variant import Forward
from crucible_kitchen.ops._head_inputs import check, check_targets, kept_of, with_bias
from crucible_kitchen.ops._library import lowered, refuse_transforms, register
from crucible_kitchen.ops._linear_logprobs_gradient import backward, setup_context
from crucible_kitchen.ops._linear_logprobs_table import LINEAR_LOGPROBS
from crucible_kitchen.ops._sampled_slope import GradientMethod, eps_of, sampled_forward


@overload
def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    return_entropy: Literal[False] = False,
    gradient: GradientMethod = ...,
    seed: int = ...,
) -> Tensor: ...
@overload
def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    return_entropy: Literal[True],
    gradient: Literal["exact"] = ...,
    seed: int = ...,
) -> tuple[Tensor, Tensor]: ...


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    return_entropy: bool = False,
    gradient: GradientMethod = "exact",
    seed: int = 0,
) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probability of each target under softmax(hidden @ weight.T), [T, V] never in memory.

    Differentiable in `hidden`, `weight` and `bias`. With a frozen head the forward computes the
    whole gradient but for its scale: two matrix products in all, one where none is needed.

    Args:
        hidden: activations, [T, H], float32, bfloat16 or float16.
        weight: the head, [V, H], in hidden's dtype.
        targets: token ids, each in [0, V), [T] int64.
        bias: added to the logits, [V], in weight's dtype. It rides as one more column of the head,
            which is copied for it.
        return_entropy: give the entropy of each token's distribution too. It has no gradient, is
            right to 1e-5 of the largest logit, and costs the second product where nothing else
            asks for it.
        gradient: "sampled" leaves out the second product: of the softmax, entries of less than
            2^-12 count 2^-12 or nothing, by chance, so that the mean of the gradient in `hidden` is
            the exact one. Where most of the probability is in such entries the gradient is exact,
            and a warning says so. What the head gets is exact. On the CPU only.
        seed: of those draws, 64 bits; take another one for each pass.

    Returns:
        Log-probabilities in nats, [T] float32; the logits were summed and kept in float32. With
        `return_entropy` also the entropies in nats, [T] float32.

    Raises:
        ValueError: shapes that do not fit, or a target that is no row of `weight`.
        TypeError: dtypes that do not fit.
        KernelError: no kernel takes the device or the dtype.

    Source: kernels/linear_logprobs/README.md
    """
    op = "linear_logprobs"
    eps = eps_of(op, gradient)
    if eps and return_entropy:
        raise ValueError(f"{op}: gradient must be 'exact' with return_entropy, got 'sampled'")
    if bias is not None:
        check(op, hidden, weight, targets)
        hidden, weight = with_bias(op, hidden, weight, bias)
    if not return_entropy:
        return score(op, hidden, weight, targets, eps=eps, seed=seed).logprobs
    made = score(op, hidden, weight, targets, want_slope=True)
    # slope . hidden is the target's logit less the mean logit, so this is lse - mean logit.
    lead = (made.slope.double() * hidden.detach().double()).sum(-1)
    entropy = (lead - made.logprobs.detach().double()).clamp_min(0.0)
    return made.logprobs, entropy.to(made.logprobs.dtype)


def score(
    op: str,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    keep: Tensor | None = None,
    logit_softcap: float = 0.0,
    label_smoothing: float = 0.0,
    want_slope: bool = False,
    want_lse: bool = False,
    eps: float = 0.0,
    seed: int = 0,
) -> Forward:
    """`linear_logprobs` with options; `op` is the name that errors carry.

    Args:
        keep: False where a token is not to be computed: its result is 0, its target is not looked
            at. [T] bool.
        logit_softcap: c > 0 replaces a logit z by c tanh(z / c); 0 leaves it.
        label_smoothing: share of the target's mass spread evenly over V, in [0, 1].
        want_slope: compute it also where no gradient asks for it.
        want_lse: let `lse` be differentiable too; not with a softcap and smoothing at once.
        eps: probability below which entries of a sampled slope are drawn; 0: exact.
        seed: of those draws.

    Returns:
        As a variant's forward; `logprobs` is the sum over v of q_tv log p_tv, with q the smoothed
        target, nats, [T] float32.
    """
    refuse_transforms(op)
    hidden, weight = lowered(hidden, weight)
    check(op, hidden, weight, targets)
    want_slope = want_slope or (torch.is_grad_enabled() and hidden.requires_grad)
    if eps and (logit_softcap or label_smoothing):
        raise ValueError(f"{op}: gradient must be 'exact' with a softcap or smoothing")
    options = (logit_softcap, label_smoothing, want_slope, want_lse, eps, seed, op)
    return Forward._make(_linear_logprobs(hidden, weight, targets, keep, *options))


def _run(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    keep: Tensor | None,
    logit_softcap: float,
    label_smoothing: float,
    want_slope: bool,
    want_lse: bool,
    eps: float,
    seed: int,
    caller: str,
) -> Forward:
    T, H = hidden.shape
    kept = kept_of(keep)
    if kept is not None:
        hidden, targets = hidden[kept], targets[kept]
    check_targets(caller, targets, kept, weight.shape[0])
    options = (logit_softcap, label_smoothing, want_slope)
    if len(targets) == 0:
        made = _fake(hidden, weight, targets, None, *options, want_lse, eps, seed, caller)
    else:
        kernel: Any = LINEAR_LOGPROBS.choose(
            hidden, weight, targets, logit_softcap=logit_softcap
        )  # a Variant
        if want_slope and eps > 0.0:
            made = sampled_forward(caller, kernel, hidden, weight, targets, eps, seed)
        else:
            made = kernel.forward(hidden, weight, targets, *options)
    if kept is None:
        return made
    spread = [part.new_zeros(T).index_copy_(0, kept, part) for part in made[:3]]
    slope = made.slope
    if want_slope:
        slope = slope.new_zeros((T, H)).index_copy_(0, kept, slope)
    return Forward._make([*spread, slope])


def _fake(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    keep: Tensor | None,
    logit_softcap: float,
    label_smoothing: float,
    want_slope: bool,
    want_lse: bool,
    eps: float,
    seed: int,
    caller: str,
) -> Forward:
    T, H = hidden.shape
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    row = [hidden.new_empty(T, dtype=dtype) for _ in range(3)]
    slope = hidden.new_empty((T if want_slope else 0, H), dtype=dtype)
    return Forward._make([*row, slope])


_linear_logprobs = register(
    "linear_logprobs(Tensor hidden, Tensor weight, Tensor targets, Tensor? keep, "
    "float logit_softcap, float label_smoothing, bool want_slope, bool want_lse, float eps, "
    "int seed, str caller) "
    "-> (Tensor logprobs, Tensor lse, Tensor miss, Tensor slope)",
    _run,
    _fake,
    setup_context=setup_context,
    backward=backward,
)
