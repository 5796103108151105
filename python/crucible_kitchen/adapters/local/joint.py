"""Losses of one session, or of several over one frozen model in the same passes.

A pass of several is that of one with more rows: no sum crosses from the rows of a session to those
of another, so each gets bit for bit what it gets alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crucible_kitchen import nn
from crucible_kitchen.adapters.local.batch import ENOUGH, Example, Pass, counts, passes
from crucible_kitchen.adapters.local.losses import PER_TOKEN
from crucible_kitchen.adapters.local.packed import Packed, starts
from crucible_kitchen.types import ForwardBackwardResult, TensorData

if TYPE_CHECKING:
    from crucible_kitchen.adapters.local.trainer import Trainer


class Asked:
    """A loss that a trainer is asked for, and what its passes have given so far.

    Args:
        trainer: of the session.
        examples: the batch.
        loss_fn: a name in `ports.LOSSES`.
        settings: of that loss.
    """

    def __init__(
        self,
        trainer: Trainer,
        examples: Sequence[Example],
        loss_fn: str,
        settings: Mapping[str, float],
    ) -> None:
        self.trainer, self._examples = trainer, examples
        self._loss_fn, self._settings = loss_fn, settings
        self._total = 0.0
        self._outputs: list[TensorData] = []
        self.waiting: deque[Pass] = deque()
        self.idle_passes = 0

    def begin(self) -> None:
        """Cut this process's share of the batch into passes."""
        mine = self.trainer.group.share(self._examples)
        size, model = self.trainer.tokens_per_pass, self.trainer.model
        # Sharded weights are gathered in each pass.
        whole = model.device.type != "cpu" or model.is_sharded
        enough = None if whole else ENOUGH[model.head.weight.dtype]
        if mine:
            self.waiting.extend(
                passes(mine, tokens_per_pass=size, device=model.device, enough=enough)
            )
        self.idle_passes = self.trainer.idle_passes(sum(len(p.rows) > 0 for p in self.waiting))

    def take(self, batch: Pass, logprobs: Tensor) -> Tensor:
        """Note the results of a pass; its loss, differentiable."""
        per_token = PER_TOKEN[self._loss_fn](logprobs, batch.inputs, self._settings)
        losses = per_token * batch.inputs["weights"]
        self._total += float(losses.detach().double().sum())
        self._outputs += [TensorData(lp) for lp in batch.per_example(logprobs.detach())]
        return losses.sum()

    def result(self) -> ForwardBackwardResult:
        """What all processes' passes gave together."""
        group = self.trainer.group
        total, outputs = sum(group.gather(self._total)), group.interleave(self._outputs)
        weight = sum(float(e.inputs["weights"].sum(dtype="float64")) for e in self._examples)
        return ForwardBackwardResult(
            loss=total / weight if weight else 0.0,
            loss_fn_outputs=tuple({"logprobs": output} for output in outputs),
            metrics={"loss:sum": total, "weights:sum": weight, **counts(self._examples)},
        )


@dataclass
class Done:
    """How much was computed so far.

    Args:
        batches: whose losses were asked for.
        passes: through a model, for these.
        shared_passes: those of them that were of several sessions.
    """

    batches: int = 0
    passes: int = 0
    shared_passes: int = 0


def compute(asked: Sequence[Asked], done: Done, *, train: bool) -> list[ForwardBackwardResult]:
    """The losses; with `train`, gradients too, and dropout.

    Args:
        asked: of different trainers, which agree in what `Trainer.kind` says.
        done: is told.
    """
    done.batches += len(asked)
    for one in asked:
        one.trainer.model.train(train)
        one.begin()
    with asked[0].trainer.model.whole(), torch.set_grad_enabled(train):
        while waiting := [one for one in asked if one.waiting]:
            beside = _fitting(waiting, waiting[0].trainer.tokens_per_pass)
            _one_pass(beside)
            done.passes += 1
            done.shared_passes += len(beside) > 1
        for one in asked:
            for _ in range(one.idle_passes):
                one.trainer.idle()
    return [one.result() for one in asked]


def _fitting(waiting: Sequence[Asked], most: int) -> list[Asked]:
    """The first, and those of the others whose next pass still fits beside it."""
    chosen, tokens = [waiting[0]], len(waiting[0].waiting[0].packed.tokens)
    for one in waiting[1:]:
        more = len(one.waiting[0].packed.tokens)
        if tokens + more <= most:
            chosen.append(one)
            tokens += more
    return chosen


def _one_pass(asked: Sequence[Asked]) -> None:
    """The next pass of each, in one."""
    turn = [(one, one.waiting.popleft()) for one in asked]
    for one, batch in turn:
        if not len(batch.rows):  # nothing counts, so nothing is computed
            one.take(batch, torch.zeros(0, device=batch.rows.device))
    turn = [(one, batch) for one, batch in turn if len(batch.rows)]
    if not turn:
        return
    trainers, batches = [one.trainer for one, _ in turn], [batch for _, batch in turn]
    packed = [batch.packed for batch in batches]
    trunks = [trainer.trunk for trainer in trainers]
    # The last layer computes some of its parts at the wanted rows alone.
    distinct = [len(torch.unique(batch.rows)) for batch in batches]
    with nn.sharing_rows(trunks, [len(part.tokens) for part in packed], distinct):
        if torch.is_grad_enabled():
            for trainer in trainers:
                trainer.next_dropout()
        losses = [
            one.take(batch, logprobs)
            for (one, batch), logprobs in zip(turn, _logprobs(trainers, batches), strict=True)
        ]
        if torch.is_grad_enabled():
            torch.autograd.backward(losses)


def _logprobs(trainers: Sequence[Trainer], batches: Sequence[Pass]) -> list[Tensor]:
    """Of each batch, at its rows."""
    model, packed = trainers[0].model, [batch.packed for batch in batches]
    places = zip(batches, starts(packed), strict=True)
    hidden = model.chosen(
        Packed.end_to_end(packed), torch.cat([batch.rows + start for batch, start in places])
    )
    counts, targets = [len(b.rows) for b in batches], [b.inputs["target_tokens"] for b in batches]
    if len(trainers[0].trunk) == len(trainers[0].layers):  # one frozen head for all
        return list(torch.split(model.logprobs_of(hidden, torch.cat(targets)), counts))
    own = zip(trainers, torch.split(hidden, counts), targets, strict=True)
    return [trainer.model.logprobs_of(rows, wanted) for trainer, rows, wanted in own]
