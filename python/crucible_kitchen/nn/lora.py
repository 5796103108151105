"""Put LoRA on a model's linears, merge it into them, and read or write its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from crucible_kitchen.errors import ConfigError, did_you_mean
from crucible_kitchen.nn.lora_linear import LoraLinear

Model = TypeVar("Model", bound=nn.Module)

# A linear belongs to a group when a module on its path carries one of these in its name.
_GROUPS = {
    "attention": ("attn", "attention"),
    "mlp": ("mlp", "feed_forward", "ffn", "feedforward"),
}


@dataclass(frozen=True)
class LoraConfig:
    """What to train, and how strongly.

    Args:
        rank: inner size R of every update.
        alpha: strength; the scale is ``alpha / rank``, or ``alpha / sqrt(rank)`` with `use_rslora`.
        dropout: share of the input that the updates do not see in training, in [0, 1).
        targets: ``all-linear`` (every linear but the head over the vocabulary), ``attention``,
            ``mlp``, ``head`` (that over the vocabulary alone), names of layers (a full path, or its
            end such as ``q_proj``), or a list of any of these.
        use_rslora: rank-stabilised scale.
        dora: train the magnitude of each output too; see `LoraLinear`.
        seed: fixes the initial weights and the dropout masks.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | Sequence[str] = "all-linear"
    use_rslora: bool = False
    dora: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora: rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora: dropout must be in [0, 1), got {self.dropout}")


def apply_lora(model: Model, config: LoraConfig) -> Model:
    """Freeze the model and put a trained low-rank update on the linears that `config` names.

    Args:
        model: changed in place; a model that has LoRA already is refused.

    Returns:
        The same model.

    Raises:
        ConfigError: a target matches no linear; the message lists the linears there are.
    """
    if any(True for _ in lora_modules(model)):
        raise ConfigError("lora: model must be without LoRA, got one that has it")
    chosen = _targets(model, config.targets)
    model.requires_grad_(False)
    for path, linear in chosen.items():
        lora = LoraLinear(
            linear,
            rank=config.rank,
            alpha=config.alpha,
            dropout=config.dropout,
            use_rslora=config.use_rslora,
            dora=config.dora,
            path=path,
            seed=config.seed,
        )
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, lora.train(linear.training))
    return model


def lora_modules(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The layers that carry LoRA, as (path, layer), in the model's order."""
    return (pair for pair in model.named_modules() if isinstance(pair[1], LoraLinear))


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What is trained, in the model's order: A, B and, with DoRA, the magnitudes of each layer."""
    return [p for _, module in lora_modules(model) for p in module.trained.values()]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The trained weights, not copied.

    They are ``<path>.lora_a`` [R, K], ``<path>.lora_b`` [N, R], and with DoRA ``<path>.magnitude``
    [N].
    """
    return {
        f"{path}.{name}": parameter.detach()
        for path, module in lora_modules(model)
        for name, parameter in module.trained.items()
    }


@torch.no_grad()
def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy trained weights into a model that has LoRA on the same layers.

    Raises:
        ConfigError: a name or a shape differs; nothing has been copied.
    """
    own = lora_state_dict(model)
    if odd := sorted(own.keys() ^ state.keys()):
        whose = "the model" if odd[0] in own else "the saved weights"
        raise ConfigError(f"lora: weights must match the model, got {odd[0]!r} in {whose} only")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            wanted, got = list(tensor.shape), list(state[name].shape)
            raise ConfigError(f"lora: {name} must have shape {wanted}, got {got}")
    for name, tensor in own.items():
        tensor.copy_(state[name])


def merge_lora(model: Model) -> Model:
    """Fold every update into its frozen weight, for use without training; `unmerge_lora` undoes."""
    for _, module in lora_modules(model):
        module.merge()
    return model


def unmerge_lora(model: Model) -> Model:
    """Undo `merge_lora`, bit for bit."""
    for _, module in lora_modules(model):
        module.unmerge()
    return model


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights by the names they have without LoRA, after `merge_lora`."""
    merge_lora(model)
    state: dict[str, Tensor] = model.state_dict()
    for path, module in lora_modules(model):
        # A state dict holds the frozen weight, also of a layer that is merged.
        state[f"{path}.weight"] = module.weight.detach()
        for own in module.trained:
            del state[f"{path}.{own}"]
    return state


def set_dropout_step(model: nn.Module, step: int | None) -> None:
    """Choose the dropout masks of the passes to come; None draws from torch's generator instead."""
    for _, module in lora_modules(model):
        module.dropout_step = step


def _targets(model: nn.Module, targets: str | Sequence[str]) -> dict[str, nn.Linear]:
    linears = {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    head = _head_of(model)
    named: set[str] = set()
    for name in [targets] if isinstance(targets, str) else targets:
        matches = {p: m for p, m in linears.items() if _is_meant(p, m is head, name)}
        named |= _or_refuse(matches, name, linears).keys()
    return _or_refuse({p: m for p, m in linears.items() if p in named}, targets, linears)


def _is_meant(path: str, is_head: bool, name: str) -> bool:
    """Whether a target's name means the linear at a path."""
    if name == "head":
        return is_head
    if name == "all-linear":
        return not is_head
    if name in _GROUPS:
        return any(mark in path.lower() for mark in _GROUPS[name])
    return path == name or path.endswith(f".{name}")


def _or_refuse(
    chosen: dict[str, nn.Linear], wanted: object, linears: Mapping[str, nn.Linear]
) -> dict[str, nn.Linear]:
    if chosen:
        return chosen
    names = sorted({path.rpartition(".")[2] for path in linears})
    hint = did_you_mean(wanted, [*names, *_GROUPS]) if isinstance(wanted, str) else ""
    raise ConfigError(
        f"lora: targets must name linears of the model ({', '.join(names) or 'it has none'}), "
        f"got {wanted!r}" + (f"; {hint}" if hint.startswith("did") else "")
    )


def _head_of(model: nn.Module) -> nn.Module | None:
    output_embeddings = getattr(model, "get_output_embeddings", None)
    head = output_embeddings() if callable(output_embeddings) else getattr(model, "lm_head", None)
    return head if isinstance(head, nn.Module) else None
