"""Log-probabilities and losses of a frozen linear head, as others compute them.

Each peer but Liger is a formulation in plain torch: nothing has to be installed to compare with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen import ops
from crucible_kitchen.benchmarks.peers import liger
from crucible_kitchen.benchmarks.problem import Call, Problem

# Tokens of a chunk; the best of 128, 256 and 512 for the sizes that are timed.
_TUNED_CHUNK = 256
# Vocabulary entries of a chunk, TRL's own setting.
_TRL_CHUNK = 8192


def calls(problem: Problem) -> dict[str, Call]:
    """The gradient in the hidden states, and what the loss needs for it."""
    made = {
        "eager": problem.forward_and_backward(_eager, problem.leaves()),
        "TRL chunked": problem.forward_and_backward(_chunked, problem.leaves()),
        "bare product": _bare(problem),
    }
    if hasattr(functional, "linear_cross_entropy"):  # torch 2.13
        made["F.lce default"] = _torch_loss(problem)
        tuned = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=_TUNED_CHUNK)
        made["F.lce tuned"] = _torch_loss(problem, options=tuned)
    if problem.size.sharp > 1 and problem.device == "cpu":  # elsewhere it would fall back to exact
        made["ours sampled"] = problem.forward_and_backward(_sampled, problem.leaves())
    return made | liger.calls(problem)


def _sampled(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Ours with a gradient that is right on average."""
    return ops.linear_logprobs(hidden, weight, targets, gradient="sampled", seed=1)


def _eager(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As transformers' loss: all logits, then float32."""
    return -functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")


def _chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As TRL's `selective_log_softmax` over a head in chunks: a running logsumexp.

    Source: https://github.com/huggingface/trl, trl/trainer/utils.py
    """
    own = (hidden * weight[targets]).sum(-1).float()
    parts = [
        torch.logsumexp((hidden @ weight[first : first + _TRL_CHUNK].T).float(), dim=-1)
        for first in range(0, len(weight), _TRL_CHUNK)
    ]
    return own - torch.logsumexp(torch.stack(parts), dim=0)


def _torch_loss(problem: Problem, **how: Any) -> Call:
    """The mean loss of `F.linear_cross_entropy`, which keeps no log-probabilities."""
    hidden, weight, targets = problem.leaves()

    def call() -> list[Tensor]:
        loss = functional.linear_cross_entropy(hidden, weight, targets, **how)
        return [-loss.detach(), *torch.autograd.grad(loss, [hidden])]

    return call


def _bare(problem: Problem) -> Call:
    """One product with the head: what the logits alone cost."""
    hidden, weight, _ = problem.inputs()

    def call() -> list[Tensor]:
        hidden @ weight.T
        return []

    return call
