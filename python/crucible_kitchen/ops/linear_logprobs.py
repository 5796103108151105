"""`linear_logprobs`: log-probabilities of targets under a linear head, without the logits.

`score` is the same op with the options that the losses use.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from crucible_kitchen.kernels.linear_logprobs.builds import not_built
from crucible_kitchen.kernels.linear_logprobs.variant import Forward
from crucible_kitchen.ops._library import lowered, refuse_transforms, register
from crucible_kitchen.ops._sampled_slope import GradientMethod, eps_of, sampled_forward
from crucible_kitchen.ops._table import Kernel, Op
from crucible_kitchen.ops._triton import triton_kernels


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


def with_bias(op: str, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Activations and head with the bias as one more column, which the activations meet with 1."""
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{op}: bias must have shape [V] = [{weight.shape[0]}], got {list(bias.shape)}"
        )
    if bias.dtype != weight.dtype:
        raise TypeError(f"{op}: bias must have weight's dtype, {weight.dtype}, got {bias.dtype}")
    if bias.device != weight.device:
        raise ValueError(
            f"{op}: bias must be on weight's device, {weight.device}, got {bias.device}"
        )
    ones = hidden.new_ones(len(hidden), 1)
    return torch.cat((hidden, ones), dim=1), torch.cat((weight, bias[:, None]), dim=1)


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


def check(op: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Shapes, dtypes and devices, in that order; values are looked at where they are computed."""
    for name, tensor, dims in (("hidden", hidden, "[T, H]"), ("weight", weight, "[V, H]")):
        if tensor.ndim != 2:
            raise ValueError(
                f"{op}: {name} must have shape {dims}, got {list(tensor.shape)} ({tensor.dtype})"
            )
    if weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"{op}: weight must have shape [V, H] = [V, {hidden.shape[1]}], "
            f"got {list(weight.shape)} ({weight.dtype})"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"{op}: targets must have shape [T] = [{hidden.shape[0]}], got {list(targets.shape)}"
        )
    if weight.dtype != hidden.dtype or not hidden.dtype.is_floating_point:
        raise TypeError(
            f"{op}: hidden and weight must have one floating dtype, "
            f"got {hidden.dtype} and {weight.dtype}"
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"{op}: targets must be torch.int64, got {targets.dtype}")
    for name, tensor in (("weight", weight), ("targets", targets)):
        if tensor.device != hidden.device:
            raise ValueError(
                f"{op}: {name} must be on hidden's device, {hidden.device}, got {tensor.device}"
            )


def _built_refuses(
    hidden: Tensor, weight: Tensor | None = None, *args: Any, logit_softcap: float = 0.0, **_: Any
) -> str | None:
    V = 0 if weight is None else weight.shape[0]
    reason: str | None = not_built(hidden.shape[1], V, logit_softcap)
    return reason


def _refuse_cpu(hidden: Tensor, *args: Any, **options: Any) -> str | None:
    if hidden.device.type != "cpu":
        return f"hidden is on {hidden.device.type}; it computes on the CPU"
    if hidden.dtype not in (torch.float32, torch.bfloat16):
        return f"hidden is {hidden.dtype}; it takes float32 and bfloat16"
    return None


LINEAR_LOGPROBS = Op(
    "linear_logprobs",
    kernels=(
        *triton_kernels("linear_logprobs", _built_refuses),
        Kernel(
            "cpu",
            "crucible_kitchen.ops._linear_logprobs_cpu:linear_logprobs",
            _refuse_cpu,
        ),
        Kernel(
            "reference",
            "crucible_kitchen.kernels.linear_logprobs.reference:linear_logprobs",
            lambda *args, **options: None,
        ),
    ),
)


def _check_targets(caller: str, targets: Tensor, kept: Tensor | None, vocabulary: int) -> None:
    """`kept`: positions of `targets` in what the caller passed, or None where those are all."""
    wrong = (targets < 0) | (targets >= vocabulary)
    if not wrong.any():
        return
    i = int(wrong.nonzero()[0])
    position = i if kept is None else int(kept[i])
    raise ValueError(
        f"{caller}: targets must be in [0, V) = [0, {vocabulary}), "
        f"got {int(targets[i])} at position {position}"
    )


def _kept(keep: Tensor | None) -> Tensor | None:
    """Positions of the tokens to compute, or None where those are all."""
    if keep is None or keep.all():
        return None
    return keep.nonzero().squeeze(1)


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
    kept = _kept(keep)
    if kept is not None:
        hidden, targets = hidden[kept], targets[kept]
    _check_targets(caller, targets, kept, weight.shape[0])
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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, keep, ctx.logit_softcap, ctx.label_smoothing, _, want_lse, *_ = inputs
    logprobs, lse, miss, slope = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*([] if want_lse else [lse]), miss, slope)
    ctx.hidden_dtype = hidden.dtype
    ctx.save_for_backward(slope)
    if ctx.needs_input_grad[1] or want_lse:
        ctx.save_for_backward(slope, hidden, weight, targets, keep, lse, miss, logprobs)


def _backward(
    ctx: Any, grad: Tensor | None, grad_lse: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    """With p = q - (q - p), the gradient of the lse is that of its own share of q, less the slope.

    d lse / d z_v = p_v, and the slope has q - p for p.
    """
    slope, *rest = ctx.saved_tensors
    if grad_lse is not None:
        grad = -grad_lse if grad is None else grad - grad_lse
    if grad is None:
        return (None,) * 11
    grad_hidden = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_hidden = grad[:, None] * slope
    if ctx.needs_input_grad[1]:
        options = (ctx.logit_softcap, ctx.label_smoothing)
        grad_weight = _grad_weight(grad, *rest[:-1], *options)
    if grad_lse is not None:
        _add_shares(ctx, grad_lse, grad_hidden, grad_weight, *rest)
    if grad_hidden is not None:
        grad_hidden = grad_hidden.to(ctx.hidden_dtype)
    return grad_hidden, grad_weight, *[None] * 9


def _add_shares(
    ctx: Any,
    grad: Tensor,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    keep: Tensor | None,
    lse: Tensor,
    miss: Tensor,
    logprobs: Tensor,
) -> None:
    """Add grad_t sum_v q_tv bend_tv W_v to the one, grad_t q_tv bend_tv h_t to the other.

    There is a softcap or smoothing, never both: the bends of all v are not kept.
    """
    even = ctx.label_smoothing / weight.shape[0]
    at_target = (1.0 - ctx.label_smoothing) * grad
    if keep is not None:
        targets = torch.where(keep, targets, 0)
        at_target, grad = at_target * keep, grad * keep
    if ctx.logit_softcap:
        at_target = at_target * (1 - ((logprobs + lse) / ctx.logit_softcap).square())
    if grad_hidden is not None:
        grad_hidden += at_target[:, None] * weight[targets]
        if even:
            grad_hidden += (even * grad)[:, None] * weight.sum(0, dtype=grad.dtype)
    if grad_weight is not None:
        pulls = (at_target[:, None] * hidden).to(weight.dtype)
        grad_weight.index_add_(0, targets, pulls)
        if even:
            grad_weight += (even * grad @ hidden.to(grad.dtype)).to(weight.dtype)


def _run_grad_weight(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    keep: Tensor | None,
    lse: Tensor,
    miss: Tensor,
    logit_softcap: float,
    label_smoothing: float,
) -> Tensor:
    kept = _kept(keep)
    if kept is not None:
        grad, hidden, targets, lse, miss = (t[kept] for t in (grad, hidden, targets, lse, miss))
    if len(targets) == 0:
        return torch.zeros_like(weight)
    kernel: Any = LINEAR_LOGPROBS.choose(
        hidden, weight, targets, logit_softcap=logit_softcap
    )  # a Variant
    made: Tensor = kernel.grad_weight(
        grad, hidden, weight, targets, lse, miss, logit_softcap, label_smoothing
    )
    return made


def _fake_grad_weight(grad: Tensor, hidden: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return weight.new_empty(weight.shape)


_linear_logprobs = register(
    "linear_logprobs(Tensor hidden, Tensor weight, Tensor targets, Tensor? keep, "
    "float logit_softcap, float label_smoothing, bool want_slope, bool want_lse, float eps, "
    "int seed, str caller) "
    "-> (Tensor logprobs, Tensor lse, Tensor miss, Tensor slope)",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)

_grad_weight = register(
    "linear_logprobs_grad_weight(Tensor grad, Tensor hidden, Tensor weight, Tensor targets, "
    "Tensor? keep, Tensor lse, Tensor miss, float logit_softcap, float label_smoothing) -> Tensor",
    _run_grad_weight,
    _fake_grad_weight,
)
