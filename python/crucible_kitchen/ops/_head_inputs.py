"""What the losses of a linear head take: checked, a bias made a column, left-out tokens found."""

from __future__ import annotations

import torch
from torch import Tensor


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


def check_targets(caller: str, targets: Tensor, kept: Tensor | None, vocabulary: int) -> None:
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


def kept_of(keep: Tensor | None) -> Tensor | None:
    """Positions of the tokens to compute, or None where those are all."""
    if keep is None or keep.all():
        return None
    return keep.nonzero().squeeze(1)
