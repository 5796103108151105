"""The state of one training session, and every computation on it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from crucible_kitchen import nn
from crucible_kitchen.adapters.local import linears
from crucible_kitchen.adapters.local.batch import Example, counts, together
from crucible_kitchen.adapters.local.group import Group
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.packed import Packed, groups
from crucible_kitchen.errors import PortError
from crucible_kitchen.optim import AdamW
from crucible_kitchen.ports import CustomLoss, SessionConfig
from crucible_kitchen.types import (
    AdamParams,
    Datum,
    ForwardBackwardResult,
    OptimStepResult,
    TensorData,
)

T = TypeVar("T")

# Losses of a whole batch compare neighbours: the two answers of a pair.
_COMPARED = 2


class Trainer:
    """A model, the low-rank update trained on it, its optimizer, and the counters that make a
    continued run the same as one that never stopped.

    Args:
        model: loaded and frozen; gets LoRA here.
        config: of the session.
        tokens_per_pass: most tokens that go through the model at once; more are split, exactly.
        group: the processes that share each batch; each of them is given the whole of it.
    """

    def __init__(
        self,
        model: CausalModel,
        config: SessionConfig,
        *,
        tokens_per_pass: int,
        group: Group | None = None,
    ) -> None:
        self.model, self.config, self.tokens_per_pass = model, config, tokens_per_pass
        self.group = group or Group()
        nn.apply_lora(
            model.model,
            nn.LoraConfig(
                rank=config.lora_rank,
                alpha=config.lora_alpha,
                dropout=config.lora_dropout,
                targets=config.lora_targets,
                use_rslora=config.use_rslora,
                dora=config.dora,
                seed=config.seed,
            ),
        )
        linears.fuse(model.model)
        if config.head == "scalar":
            nn.add_scalar_head(model.model, model.head.in_features, seed=config.seed)
        if config.gradient_checkpointing:
            model.checkpoint_gradients()
        self.layers = [layer for _, layer in nn.lora_modules(model.model)]
        # A pass of several sessions shares these; the rows of a trained head are others.
        self.trunk = [layer for layer in self.layers if layer is not model.head]
        self.parameters = nn.trained_parameters(model.model)
        self.optimizer = AdamW(self.parameters)
        self.steps = 0
        self.trained_passes = 0

    @property
    def kind(self) -> Hashable:
        """What trainers have in common whose losses `joint.compute` may compute together."""
        # The processes of a group must keep one order; DoRA takes passes of its own.
        if self.group.size > 1 or self.config.dora:
            return self
        config, paths = self.config, tuple(layer.path for layer in self.layers)
        return self.model.base, paths, config.lora_dropout, config.gradient_checkpointing

    def forward_backward_custom(
        self, examples: Sequence[Example], datums: Sequence[Datum], fn: CustomLoss
    ) -> ForwardBackwardResult:
        """As `forward_backward`, for a loss that sees the whole batch at once."""
        self.model.train()
        with self.model.whole():
            mine = self.group.share(examples, _COMPARED)
            own, reached = self._one_pass(mine, self._logprobs)
            logprobs = self._with_the_others(own)
            loss, metrics = _differentiated(fn, datums, logprobs, reached)
        return ForwardBackwardResult(
            loss=loss,
            loss_fn_outputs=tuple({"logprobs": TensorData(lp)} for lp in logprobs),
            metrics={**metrics, "loss:sum": loss, **counts(examples)},
        )

    def forward_backward_scores(
        self, sequences: Sequence[list[int]], datums: Sequence[Datum], fn: CustomLoss
    ) -> ForwardBackwardResult:
        """As `forward_backward_custom`, of the sequences' scores."""
        self.model.train()
        with self.model.whole():
            own, reached = self._one_pass(self.group.share(sequences, _COMPARED), self._scores)
            scores = self._with_the_others(own)
            loss, metrics = _differentiated(fn, datums, scores, reached)
        tokens = sum(len(sequence) for sequence in sequences)
        return ForwardBackwardResult(
            loss=loss,
            loss_fn_outputs=tuple({"score": TensorData(score)} for score in scores),
            metrics={**metrics, "loss:sum": loss, "tokens:sum": tokens},
        )

    def score(self, sequences: Sequence[list[int]]) -> list[float]:
        """The score of each sequence, without gradients and without dropout."""
        mine, size = self.group.share(sequences), self.tokens_per_pass
        passes = sum(1 for _ in groups(mine, [len(sequence) for sequence in mine], size))
        idle_passes = self.idle_passes(passes)
        with self.model.whole(), torch.no_grad():
            own = self.model.score(mine, tokens_per_pass=size)
            for _ in range(idle_passes):
                self.idle()
        return self.group.interleave(own)

    def optim_step(self, params: AdamParams) -> OptimStepResult:
        """Apply the gradients and clear them.

        Raises:
            PortError: they are not finite; the weights are as before, the gradients are cleared.
        """
        for group in self.optimizer.param_groups:
            group["lr"], group["eps"] = params.learning_rate, params.eps
            group["betas"] = (params.beta1, params.beta2)
            group["weight_decay"] = params.weight_decay
        self.optimizer.max_grad_norm = params.grad_clip_norm
        self.group.sum_gradients(self.parameters)
        self.optimizer.step()
        self.optimizer.zero_grad()
        norm = self.optimizer.last_grad_norm
        assert norm is not None  # a step has been tried
        if self.optimizer.last_step_skipped:
            raise PortError(
                f"training_client: step {self.steps + 1}: gradients must be finite, got a norm of "
                f"{norm}; the weights are those of step {self.steps}"
            )
        self.steps += 1
        return OptimStepResult(self.steps, norm, params.learning_rate)

    @property
    def has_gradients(self) -> bool:
        """Whether gradients wait for `optim_step`."""
        return any(parameter.grad is not None for parameter in self.parameters)

    def idle_passes(self, own: int) -> int:
        """How many passes this process must add to its own, so that all run as many.

        Over whole weights processes need not wait for each other.
        """
        return max(self.group.gather(own)) - own if self.model.is_sharded else 0

    def idle(self) -> None:
        """A pass that counts for nothing, forward and, where gradients are on, backward."""
        hidden = self.model.idle()
        if hidden.requires_grad:
            hidden.backward(torch.zeros_like(hidden))  # type: ignore[no-untyped-call]

    def _one_pass(
        self, mine: Sequence[T], compute: Callable[[Sequence[T]], Sequence[Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What this process makes of its share of a batch, and what its backward pass must reach.

        Over sharded weights it goes through all layers in every process, wherever the loss leads.
        """
        if not mine:
            return [], [self.model.idle()] if self.model.is_sharded else []
        self.next_dropout()
        own = list(compute(mine))
        return own, own if self.model.is_sharded else []

    def _logprobs(self, mine: Sequence[Example]) -> list[Tensor]:
        """Log-probabilities [T] of every example."""
        batch = together(mine, self.model.device)
        logprobs = self.model.logprobs(batch.packed, batch.rows, batch.inputs["target_tokens"])
        return batch.per_example(logprobs)

    def _scores(self, mine: Sequence[list[int]]) -> Sequence[Tensor]:
        return torch.split(self.model.scores(Packed.of(mine, self.model.device)), 1)

    def _with_the_others(self, own: list[Tensor]) -> list[Tensor]:
        """What every process made of its share of a batch, in the batch's order.

        A loss of all of them has its gradient in parts: each process follows its own share, and
        `optim_step` adds the parts up.
        """
        if self.group.size == 1:
            return own
        shared = self.group.interleave([values.detach().cpu() for values in own], _COMPARED)
        everyone = [values.to(self.model.device).requires_grad_() for values in shared]
        for place, values in zip(self.group.share(range(len(shared)), _COMPARED), own, strict=True):
            everyone[place] = values
        return everyone

    def next_dropout(self) -> None:
        """Masks of their own for each pass that is trained."""
        for layer in self.layers:
            layer.dropout_step = self.trained_passes
        self.trained_passes += 1


def _differentiated(
    fn: CustomLoss, datums: Sequence[Datum], values: Sequence[Tensor], reached: Sequence[Tensor]
) -> tuple[float, Mapping[str, float]]:
    """The loss and the metrics of the caller's own, with its gradients added.

    Args:
        reached: what the backward pass goes through, also where the loss depends on none of it.
    """
    loss, metrics = fn(datums, values)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise TypeError(
            "forward_backward_custom: fn must give a scalar tensor that depends on the log "
            f"probabilities or scores, got {loss!r}"
        )
    also = [tensor for tensor in reached if tensor.requires_grad]
    torch.autograd.backward([loss, *also], [None, *map(torch.zeros_like, also)])
    return float(loss.detach()), metrics
