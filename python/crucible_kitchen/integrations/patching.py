"""`patch`: our kernels inside a model of transformers, in place, until they are taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crucible_kitchen import ops
from crucible_kitchen.errors import ConfigError, KernelError
from crucible_kitchen.integrations import by_segment, causal_loss, peft_lora, unpadded
from crucible_kitchen.integrations.report import Part, PatchReport
from crucible_kitchen.integrations.trl_head import has_trl_head, trl_forward
from crucible_kitchen.nn import LoraLinear
from crucible_kitchen.nn.forwards import Switch, is_replaced, put_forward
from crucible_kitchen.nn.fused import Candidate, Fuser, evaluating, why_no_kernel
from crucible_kitchen.nn.last_layer import last_layer, layer_forward

# transformers' names of the architectures that are tested, each against its own code.
ARCHITECTURES = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
)
# Models that see, too: the language model inside is one of those above, and computed as one.
AROUND = ("gemma3",)
# Of a loss, between the model's own code and ours: some hundred operations, rounded differently.
_AGREEMENT = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class _Row(NamedTuple):
    """A module and the line about it."""

    module: nn.Module
    part: Part
    forward: Callable[..., Any] | None


def patch(model: nn.Module, *, loss: bool = True) -> PatchReport:
    """Let our kernels compute what they can of a transformers model, with or without PEFT's LoRA.

    LoRA linears, RMS norms and gated MLPs run one op each; in training, a model that is given
    labels returns its loss without ever having logits (`logits` is None then). Classes, weights,
    names and hooks stay as they are, so that PEFT, TRL, Accelerate and checkpoints do too. What
    one of our ops does not compute at the moment of a call (an update that is merged or switched
    off, two adapters at once, a moved model that no kernel serves) runs the module's own code.

    Patch after PEFT has put its layers in, and before `torch.compile`, DDP or FSDP.

    Args:
        model: a model of transformers, or PEFT's wrapper around one; changed in place.
        loss: False keeps the logits of training steps, for a script that reads them.

    Returns:
        What computes each module now, or why it was left alone; `undo()` takes the patch out. Of a
        model that also sees images it is about the language model in it; one of another
        architecture is left alone as a whole.

    Raises:
        ConfigError: the model is patched already, compiled, sharded, or without weights.
        KernelError: the patched model gave another result than before; it is as it was.
    """
    _refuse_unready(model)
    inner = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    is_around = inner is not None and inner.config.model_type in AROUND
    if is_around:
        inner = inner.get_decoder()  # type: ignore[union-attr]
    if inner is None or inner.config.model_type not in ARCHITECTURES:
        return _left_alone(model, inner)
    switch = Switch()
    rows = list(_rows(inner, loss, is_around=is_around))
    chosen = [row for row in rows if row.forward is not None]
    if not chosen:
        return PatchReport(type(inner).__name__, tuple(row.part for row in rows))
    before = _result(inner)
    for module, _, forward in chosen:
        assert forward is not None
        put_forward(module, forward, switch)
    modules = [module for module, _, _ in chosen]
    report = PatchReport(type(inner).__name__, tuple(row.part for row in rows), modules, switch)
    _compare(inner, before, report)
    inner.__dict__["_crucible_patch"] = switch
    return report


def _refuse_unready(model: nn.Module) -> None:
    problem = ""
    for module in model.modules():
        kind = type(module).__name__
        marker = module.__dict__.get("_crucible_patch")
        if marker is not None and marker.on:
            problem = "unpatched, got one that is patched; call undo() of its report first"
        elif kind == "OptimizedModule" or module.__dict__.get("_compiled_call_impl") is not None:
            problem = "not compiled yet; patch it first and compile it then"
        elif kind in ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel"):
            problem = f"without {kind} around it; patch it first and wrap it then"
        if problem:
            raise ConfigError(f"patch: model must be {problem}")
    for name, weight in model.named_parameters():
        if weight.is_meta:
            raise ConfigError(
                f"patch: model must have its weights, got {name} on the meta device; load it first"
            )
        if type(weight.data) is not Tensor and hasattr(weight, "device_mesh"):
            raise ConfigError(
                f"patch: model must be whole, got {name} sharded; patch it before fully_shard"
            )


def _left_alone(model: nn.Module, inner: PreTrainedModel | None) -> PatchReport:
    kind = type(model if inner is None else inner).__name__
    if inner is None:
        reason = "it is no model of transformers; its parts can use crucible_kitchen.ops and .nn"
    else:
        known = ", ".join(ARCHITECTURES)
        reason = f"{inner.config.model_type} is not among the tested architectures: {known}"
    return PatchReport(kind, (Part("", kind, reason=reason),))


def _rows(model: PreTrainedModel, loss: bool, *, is_around: bool) -> Iterator[_Row]:
    """Every module that computes something, with its new forward or the reason against one.

    Args:
        is_around: whether a larger model is, which takes the loss and makes the masks.
    """
    fuser = Fuser()
    inside: set[nn.Module] = set()
    padding = "the model around it makes its masks" if is_around else _why_padded(model.base_model)
    last = _last_layer(model.base_model)
    for path, module in model.named_modules():
        found: Candidate | str | None = None
        if module in inside:
            continue  # a part of a layer that has a row
        if module is model.base_model:
            yield _unpadded_row(path, module, unpadded.body_forward, padding)
        if module is model:
            found = _loss(model, padding) if loss else "patch(loss=False)"
        elif padding is None and last is not None and module is last:
            part = Part(path, type(module).__name__, "read tokens", "torch")
            yield _Row(module, part, layer_forward)
        elif _is_attention(module):
            yield _attention_row(path, module, padding)
        elif peft_lora.is_lora(module):
            inside.update(module.modules())
            found = _lora(module)
        elif isinstance(module, LoraLinear):
            found = "it is nn.LoraLinear, which runs lora_linear by itself"
        else:
            found = fuser.forward_of(module) or _why_left(model, module)
        if found is not None:
            yield _row(path, module, found)


def _row(path: str, module: nn.Module, found: Candidate | str) -> _Row:
    kind = type(module).__name__
    if isinstance(found, str):
        return _Row(module, Part(path, kind, reason=found), None)
    if found.op == "trl_head":
        return _Row(module, Part(path, kind, "trained positions", "trl"), found.forward)
    like = found.weight.new_empty((1, 1))
    kernel = ops.explain(found.op, *[like] * (2 if found.op == "swiglu" else 1)).chosen
    op = "linear_cross_entropy" if found.op == "linear_logprobs" else found.op
    return _Row(module, Part(path, kind, op, kernel, note=_note(module)), found.forward)


def _note(module: nn.Module) -> str:
    dropped = peft_lora.share_dropped(module, training=True) if peft_lora.is_lora(module) else 0.0
    return f"lora_dropout {dropped} by masks of its own" if dropped > 0 else ""


def _last_layer(body: nn.Module) -> nn.Module | None:
    """The last layer, if it can leave out queries: its attention will run `by_segment`'s rope."""
    last: Any = last_layer(body)
    if last is None or not by_segment.turns_whole_heads(last.self_attn):
        return None
    return None if isinstance(_rope(last.self_attn), str) else last


def _rope(attention: Any) -> Candidate | str:
    return _or_no_kernel("rope", by_segment.rope_forward, attention.q_proj.weight)


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


def _why_padded(body: nn.Module) -> str | None:
    """Why the padding of a batch goes through the layers, or None where it does not."""
    replaced = any(is_replaced(m) for m in body.modules() if m is body or _is_attention(m))
    if replaced:
        return "its forward is replaced already"
    return unpadded.why_not(body) or by_segment.why_not(body)


def _attention_row(path: str, module: Any, padding: str | None) -> _Row:
    if padding is None and by_segment.turns_whole_heads(module):
        found = _rope(module)
        if isinstance(found, Candidate):
            return _row(path, module, found)
    return _unpadded_row(path, module, by_segment.attention_forward, padding)


def _unpadded_row(
    path: str, module: nn.Module, forward: Callable[..., Any], padding: str | None
) -> _Row:
    kind = type(module).__name__
    if padding is not None:
        return _Row(module, Part(path, kind, reason=padding), None)
    return _Row(module, Part(path, kind, "unpadded", "torch"), forward)


def _lora(layer: Any) -> Candidate | str:
    if type(layer).__name__ != "Linear":
        return f"it is {type(layer).__module__}.{type(layer).__name__}, not lora.Linear"
    if is_replaced(layer):
        return "its forward is replaced already"
    if (reason := peft_lora.why_not(layer)) is not None:
        return reason
    return _or_no_kernel("lora_linear", peft_lora.lora_forward, layer.base_layer.weight)


def _loss(model: Any, padding: str | None) -> Candidate | str | None:
    if not type(model).__name__.endswith("ForCausalLM"):
        return None
    if has_trl_head(model) and padding is None:
        weight = model.get_output_embeddings().weight
        return Candidate("trl_head", trl_forward(model.forward.__func__), weight, weight.shape[1])
    if is_replaced(model):
        return "its forward is replaced already, so its loss is another's task"
    if (reason := causal_loss.why_not(model)) is not None:
        return reason
    weight = model.get_output_embeddings().weight
    return _or_no_kernel("linear_logprobs", causal_loss.loss_forward, weight)


def _or_no_kernel(op: str, forward: Callable[..., Any], weight: Tensor) -> Candidate | str:
    reason = why_no_kernel(op, weight)
    return reason or Candidate(op, forward, weight, weight.shape[1])


def _why_left(model: Any, module: nn.Module) -> str | None:
    """The reason for a module that no op computes; None for one that computes nothing itself."""
    kind = type(module).__name__
    if module is model.get_output_embeddings():
        return "the head, which the loss reads in training"
    if isinstance(module, nn.Linear):
        return "it has no LoRA; a plain linear is torch's best case"
    if kind.endswith("MLP"):
        return "its linears are quantised, or not those of a gated MLP"
    if kind.endswith("RotaryEmbedding"):
        return "its angles are computed once a step"
    owns = any(True for _ in module.parameters(recurse=False))
    return f"there is no op for {kind}" if owns else None


@torch.no_grad()
def _result(model: Any, *, fused_loss: bool = False) -> Tensor:
    """What the model says to a few tokens: its loss where it has one, else its first output."""
    tokens = torch.tensor([[1, 3, 2, 5, 4, 1]], device=model.device) % model.config.vocab_size
    with evaluating(model):
        if fused_loss:
            output = causal_loss.causal_loss(model, tokens, labels=tokens)
        elif type(model).__name__.endswith("ForCausalLM"):
            output = model(tokens, labels=tokens)
        else:
            output = model(tokens)
    made: Tensor = output[0]
    return made.float()


def _compare(model: PreTrainedModel, before: Tensor, report: PatchReport) -> None:
    """Undo the patch and raise if the model gives another result than it did."""
    fused_loss = any(part.op == "linear_cross_entropy" for part in report.patched)
    error = float((_result(model, fused_loss=fused_loss) - before).norm() / before.norm())
    if not error <= _AGREEMENT.get(model.dtype, 1e-4):
        report.undo()
        raise KernelError(
            f"patch: {type(model).__name__} must give the same with our kernels as without, "
            f"got {error:.1e} of its size between them; nothing was changed"
        )
