"""The loss of a causal language model of transformers, without its logits.

transformers' registry of loss functions hands them logits, which is what costs the memory; so it
is the forward of the model that changes, in training alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import CausalLMOutputWithPast

from crucible_kitchen import ops
from crucible_kitchen.integrations import unpadded

_IGNORED = -100
# What of a forward's arguments says only what is to be returned.
_ABOUT_OUTPUT = ("logits_to_keep", "return_dict")


def loss_forward(model: Any, *args: Any, **kwargs: Any) -> Any:
    """A training step's output, with `logits` None; NotImplemented for anything else.

    Args:
        model: a causal language model of transformers.
        args, kwargs: what its forward takes.
    """
    training = model.training and torch.is_grad_enabled()
    if not training or kwargs.get("labels") is None or not _is_usual(model, kwargs):
        return NotImplemented
    asked = {name: value for name, value in kwargs.items() if name not in _ABOUT_OUTPUT}
    return causal_loss(model, *args, **asked)


def causal_loss(
    model: Any,
    *args: Any,
    labels: Tensor,
    shift_labels: Tensor | None = None,
    num_items_in_batch: Tensor | float | None = None,
    ignore_index: int = _IGNORED,
    **kwargs: Any,
) -> CausalLMOutputWithPast:
    """`ForCausalLMLoss` of the model's logits, in nats, without the logits.

    Args:
        model: see `loss_forward`.
        args, kwargs: what the model without its head takes.
        labels: token ids [B, T], each row shifted by one here; `ignore_index` does not count.
        shift_labels: the same, shifted already; `labels` is then not looked at.
        num_items_in_batch: what the sum of the losses is divided by; None is their number.
    """
    if shift_labels is None:
        shift_labels = functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    shift_labels = shift_labels.flatten()
    if kwargs.get("use_cache") is None:
        kwargs["use_cache"] = False  # whoever wants a loss has no use for one
    if unpadded.is_put(model.base_model):
        kwargs["wanted"] = (shift_labels != ignore_index).nonzero().squeeze(1)
        shift_labels = shift_labels[kwargs["wanted"]]
    outputs = model.base_model(*args, **kwargs)
    hidden = outputs.last_hidden_state
    if (scale := _logit_scale(model)) != 1.0:
        hidden = hidden * scale
    loss = ops.linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        model.get_output_embeddings().weight,
        shift_labels.to(hidden.device),
        ignore_index=ignore_index,
        reduction="mean" if num_items_in_batch is None else "sum",
        logit_softcap=getattr(model.config, "final_logit_softcapping", None),
    )
    if num_items_in_batch is not None:
        loss = loss / num_items_in_batch
    rest = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
    return CausalLMOutputWithPast(loss=loss, **rest)


def why_not(model: Any) -> str | None:
    """Why the model's loss is not computed without logits, or None."""
    head = model.get_output_embeddings()
    if not type(model).__name__.endswith("ForCausalLM") or head is None:
        return "it has no loss over a vocabulary"
    if type(head) is not nn.Linear or not head.weight.is_floating_point():
        return f"its head is {type(head).__name__}, quantised or trained by an adapter"
    if head.bias is not None:
        return "its head has a bias"
    if head.weight.dtype != model.get_input_embeddings().weight.dtype:
        return "its head has another dtype than its hidden states"
    if model.loss_function is not ForCausalLMLoss:
        return "its loss is not transformers' ForCausalLMLoss"
    return None


def _is_usual(model: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call wants the loss alone, of a model that is as it was when it was patched."""
    kept, as_dict = kwargs.get("logits_to_keep", 0), kwargs.get("return_dict")
    if not isinstance(kept, int) or kept != 0 or as_dict is False or not model.config.return_dict:
        return False
    weight = model.get_output_embeddings().weight
    served = torch.compiler.is_compiling() or ops.OPS["linear_logprobs"].serves(weight)
    return served and why_not(model) is None


def _logit_scale(model: Any) -> float:
    """What the logits are multiplied by; Granite divides them."""
    return 1.0 / float(getattr(model.config, "logits_scaling", 1.0))
