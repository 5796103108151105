"""A head that gives one score for a sequence, trained beside LoRA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from crucible_kitchen.nn.lora import lora_parameters, lora_state_dict

HEAD = "score"
"""Where the head is in a model: what transformers calls that of its sequence classifiers."""


class ScalarHead(nn.Linear):
    """From a hidden state to one number, without bias, in float32.

    Args:
        width: H, of the hidden states.
        seed: of the initial weight. It is drawn with standard deviation 1 / (H + 1), so that scores
            begin near 0, where a pair's loss is ln 2, and yet the layers below get gradients from
            the first step on.
    """

    def __init__(self, width: int, *, seed: int = 0, device: torch.device | None = None) -> None:
        super().__init__(width, 1, bias=False, device=device, dtype=torch.float32)
        # Drawn on the CPU: the same numbers on every device.
        drawn = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) / (width + 1)
        self.weight.data.copy_(drawn)

    def forward(self, hidden: Tensor) -> Tensor:
        """Args: hidden, [n, H]. Returns: float32 [n]."""
        return functional.linear(hidden.float(), self.weight).squeeze(-1)


def add_scalar_head(model: nn.Module, width: int, *, seed: int = 0) -> ScalarHead:
    """Put a fresh head on a model, as its ``score``; the model's own head stays as it is."""
    device = next(model.parameters()).device
    head = ScalarHead(width, seed=seed, device=device)
    model.add_module(HEAD, head)
    return head


def scalar_head(model: nn.Module) -> ScalarHead | None:
    """The head that `add_scalar_head` put on a model, None where there is none."""
    head = getattr(model, HEAD, None)
    return head if isinstance(head, ScalarHead) else None


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What training changes: `lora_parameters`, and a scalar head's weight if there is one."""
    head = scalar_head(model)
    return lora_parameters(model) + ([] if head is None else [*head.parameters()])


def trained_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The same by name, in the same order: `lora_state_dict`, and ``score.weight`` [1, H]."""
    head = scalar_head(model)
    own = {} if head is None else {f"{HEAD}.weight": head.weight.detach()}
    return {**lora_state_dict(model), **own}
