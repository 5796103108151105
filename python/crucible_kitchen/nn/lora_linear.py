"""A frozen linear layer with a trained low-rank update."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from crucible_kitchen import ops
from crucible_kitchen.kernels.lora_linear.variant import Drop
from crucible_kitchen.kernels.lora_linear_many.variant import Updates


class Sharing(NamedTuple):
    """Whose updates a layer computes in one pass, each for rows of its own.

    Args:
        splits: ways to split rows of x, one of which sums to the rows that x has: how many are for
            each, in order.
        layers: one of each model, at the same place; the first is the layer itself.
    """

    splits: Sequence[Sequence[int]]
    layers: Sequence[LoraLinear]

    def rows(self, count: int) -> Sequence[int]:
        """How many of so many rows are for each layer."""
        return next(rows for rows in self.splits if sum(rows) == count)


class LoraLinear(nn.Module):
    """``y = x W^T + s (x A^T) B^T (+ bias)`` with W and bias frozen, A and B trained in float32.

    It keeps the names `weight` and `bias` of the layer it replaces, so that a model's own weights
    have the same names with and without LoRA. A state dict holds the frozen weight whether or not
    the update is merged; loading one ends a merge.

    Args:
        base: the layer to train; its weight [N, K] and bias [N] are shared, not copied.
        rank: R, inner size of the update.
        alpha: strength; the scale s is ``alpha / rank``, or ``alpha / sqrt(rank)`` with rsLoRA.
        dropout: share of x that the update (never the frozen layer) does not see in training.
        use_rslora: rank-stabilised scale.
        dora: train the magnitude of each output too: ``m / |W + s B A| * (W + s B A)`` is the
            weight then, by rows, m in float32 and in the beginning |W|.
        path: the layer's name in its model; with `seed` it fixes A and the dropout masks, so that
            neither depends on the order in which layers are made or run.
        seed: see `path`.

    Source: Hu et al. 2021, eq. 3, https://arxiv.org/abs/2106.09685; rsLoRA: Kalajdzievski 2023,
        https://arxiv.org/abs/2312.03732; DoRA: Liu et al. 2024, https://arxiv.org/abs/2402.09353
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        use_rslora: bool = False,
        dora: bool = False,
        path: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not base.weight.is_floating_point():
            raise TypeError(
                f"lora_linear: weight must be floating point, got {base.weight.dtype} at {path!r}"
            )
        self.in_features, self.out_features = base.in_features, base.out_features
        self.rank, self.alpha, self.dropout, self.use_rslora = rank, alpha, dropout, use_rslora
        self.scale = alpha / math.sqrt(rank) if use_rslora else alpha / rank
        self.path, self.seed = path, seed
        self.dropout_step: int | None = None
        self.sharing: Sharing | None = None
        self.weight = base.weight.requires_grad_(False)
        self.bias = None if base.bias is None else base.bias.requires_grad_(False)
        device = base.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, device=device))
        magnitude = torch.empty(self.out_features, device=device) if dora else None
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)
        self._frozen_weight: Tensor | None = None
        self.reset_lora()

    @torch.no_grad()
    def reset_lora(self) -> None:
        """Start over: A Kaiming-uniform from the seed and the path, B zero, so y is the base's.

        With DoRA the magnitudes are the norms of the frozen weight.
        """
        # Drawn on the CPU: the same numbers on every device.
        bound = 1 / math.sqrt(self.in_features)
        drawn = torch.empty(self.rank, self.in_features)
        generator = torch.Generator().manual_seed(self._seed("init"))
        self.lora_a.copy_(drawn.uniform_(-bound, bound, generator=generator))
        self.lora_b.zero_()
        if self.magnitude is not None:
            self.unmerge()
            self.magnitude.copy_(torch.linalg.vector_norm(self.weight, dim=1, dtype=torch.float32))

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What training changes, by name: A, B, and with DoRA the magnitudes."""
        trained = {"lora_a": self.lora_a, "lora_b": self.lora_b}
        return trained if self.magnitude is None else {**trained, "magnitude": self.magnitude}

    @property
    def merged(self) -> bool:
        """Whether `weight` holds the update already."""
        return self._frozen_weight is not None

    def forward(self, x: Tensor, part: int = 0) -> Tensor:
        """The layer's output.

        Args:
            x: [..., K].
            part: which of the parts of a step's rows x is; each has dropout masks of its own.
        Returns:
            y, [..., N], in x's dtype.
        """
        if self.merged:
            return functional.linear(x, self.weight, self.bias)
        dropout = self.dropout if self.training else 0.0
        if self.sharing is not None:
            return self._of_all(x, self.sharing, dropout)
        seed = self._dropout_seed(part) if dropout > 0 else 0
        layer, scale, bias = (self.weight, self.lora_a, self.lora_b), self.scale, self.bias
        if self.magnitude is None:
            return ops.lora_linear(x, *layer, scale, bias, dropout=dropout, seed=seed)
        return ops.dora_linear(x, *layer, self.magnitude, scale, bias, dropout=dropout, seed=seed)

    def updates(self, count: int) -> Updates:
        """What a pass of `count` rows trains, with dropout masks drawn for it."""
        sharing = self.sharing or Sharing([[count]], [self])
        share = self.dropout if self.training else 0.0
        return Updates(
            [layer.lora_a for layer in sharing.layers],
            [layer.lora_b for layer in sharing.layers],
            [layer.scale / (1 - share) for layer in sharing.layers],
            sharing.rows(count),
            [Drop(share, layer._dropout_seed() if share > 0 else 0) for layer in sharing.layers],
        )

    def _of_all(self, x: Tensor, sharing: Sharing, dropout: float) -> Tensor:
        (y,) = ops.lora_linear_many(
            x,
            [self.weight],
            [layer.lora_a for layer in sharing.layers],
            [layer.lora_b for layer in sharing.layers],
            [layer.scale for layer in sharing.layers],
            sharing.rows(x.shape[:-1].numel()),
            None if self.bias is None else [self.bias],
            dropout=dropout,
            seeds=[layer._dropout_seed() if dropout > 0 else 0 for layer in sharing.layers],
        )
        return y

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the update into `weight`; the frozen weight is kept, so `unmerge` is exact."""
        if self.merged:
            return
        frozen = self.weight
        update = self.scale * (self.lora_b @ self.lora_a)
        merged = frozen.to(update.dtype) + update
        if self.magnitude is not None:
            norm = ops.dora_norm(frozen, self.lora_a, self.lora_b, self.scale)
            merged = (self.magnitude / norm)[:, None] * merged
        self.weight = nn.Parameter(merged.to(frozen.dtype), requires_grad=False)
        self._frozen_weight = frozen

    def unmerge(self) -> None:
        """Take the update out of `weight` again, bit for bit."""
        if self._frozen_weight is not None:
            self.weight, self._frozen_weight = self._frozen_weight, None

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # While merged, the frozen weight is a parameter too: it moves with the module.
        if (frozen := destination.pop(f"{prefix}_frozen_weight", None)) is not None:
            destination[f"{prefix}weight"] = frozen

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unmerge()
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, rank={self.rank}, alpha={self.alpha}, "
            f"dropout={self.dropout}, bias={self.bias is not None}, "
            f"dora={self.magnitude is not None}"
        )

    def _dropout_seed(self, part: int = 0) -> int:
        if self.dropout_step is None:
            return int(torch.randint(2**63 - 1, ()))
        # A mask that depends on the step alone: a layer recomputed under gradient checkpointing
        # sees the mask of its first pass, and a resumed run sees the masks it would have seen.
        step = f"dropout {self.dropout_step}"
        return self._seed(f"{step} part {part}" if part else step)

    def _seed(self, purpose: str) -> int:
        key = f"{self.seed}/{self.path}/{purpose}".encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:7], "big")


@contextmanager
def sharing_rows(models: Sequence[Sequence[LoraLinear]], *splits: Sequence[int]) -> Iterator[None]:
    """For a while, let the first model compute rows of all, each with updates of its own.

    An update gets bit for bit the gradients, and its rows the results, that it has alone.

    Args:
        models: the layers of each, of which one alone is left as it is. They stand at the same
            places, over the same frozen weights, with the same dropout and without DoRA; ranks and
            scales are their own.
        splits: how many rows of x are for each model, in order; another split for layers that
            compute some rows only. A backward pass belongs inside too where activations are
            computed again in it.
    """
    places = list(zip(*models, strict=True)) if len(models) > 1 else []
    for layers in places:
        layers[0].sharing = Sharing(splits, layers)
    try:
        yield
    finally:
        for layers in places:
            layers[0].sharing = None
