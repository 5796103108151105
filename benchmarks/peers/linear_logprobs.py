"""Log-probabilities and losses of a linear head, as others compute them.

Each peer but Liger is a formulation in plain torch: nothing has to be installed to compare with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
    """The values, and the gradients that the problem asks for."""
    made = {
        "eager": problem.forward_and_backward(_eager, problem.leaves()),
        "TRL chunked": problem.forward_and_backward(_chunked, problem.leaves()),
        "bare product": _bare(problem),
    }
    if not problem.gradients:
        return made
    if hasattr(functional, "linear_cross_entropy"):  # torch 2.13
        loss = functional.linear_cross_entropy
        made["F.lce default"] = _loss(problem, loss)
        tuned = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=_TUNED_CHUNK)
        made["F.lce tuned"] = _loss(problem, partial(loss, options=tuned))
    if 1 in problem.gradients:
        made["ours, as a loss"] = _loss(problem, ops.linear_cross_entropy)
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


def _loss(problem: Problem, loss_of: Callable[..., Tensor]) -> Call:
    """A mean loss, which keeps no log-probabilities."""
    leaves = problem.leaves()
    wanted = [leaves[i] for i in problem.gradients]

    def call() -> list[Tensor]:
        loss = loss_of(*leaves)
        return [-loss.detach(), *torch.autograd.grad(loss, wanted)]

    return call


def _bare(problem: Problem) -> Call:
    """One product with the head: what the logits alone cost."""
    hidden, weight, _ = problem.inputs()

    def call() -> list[Tensor]:
        hidden @ weight.T
        return []

    return call
