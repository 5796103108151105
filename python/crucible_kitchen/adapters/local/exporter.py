"""Trained weights for others to load: written, read back, and compared before they stay."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import torch
from torch import Tensor

from crucible_kitchen import nn
from crucible_kitchen.adapters.local import gguf
from crucible_kitchen.adapters.local.gguf_writer import write_gguf
from crucible_kitchen.adapters.local.model import quiet
from crucible_kitchen.adapters.local.models import prepare_model
from crucible_kitchen.adapters.local.plain import plain_model, read_model
from crucible_kitchen.adapters.local.tokenizer import load_tokenizer
from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.nn.peft_format import write_lora
from crucible_kitchen.ports import HubClient

Format = Literal["peft", "merged", "gguf"]

TOLERANCE: Final[Mapping[str, float]] = MappingProxyType(
    {
        # One rounding to 24 bits a weight, and sums in another order.
        "float32": 1e-4,
        # One rounding to 11 bits a weight, 8 of bfloat16; a model's layers add some of them up.
        "float16": 1e-2,
        "bfloat16": 6e-2,
        # 32 weights share a scale: 8 bits of the largest of them.
        "q8_0": 6e-2,
    }
)
"""How far the logits of what was written may be from the trained model's, of their norm."""

DTYPES: Final[Mapping[str, Mapping[str, torch.dtype]]] = MappingProxyType(
    {
        "peft": {"float32": torch.float32},
        "merged": {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        },
        "gguf": {
            "float16": torch.float16,
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "q8_0": torch.float32,
        },
    }
)
"""Format -> what its weights may be stored in; the first is the default."""

# Code, prose, numbers, other scripts: what tokenizers and models treat differently.
_PROBES: Final = (
    "def mean(values):\n    return sum(values) / len(values)\n",
    "The kitchen opens at 7:30, and 128 guests are expected.",
    'What does os.getcwd do?\n\n  "Return the current working directory."',
    "Crème brûlée, 東京, и ещё немного текста.",
)
_PROBE_TOKENS: Final = 48


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is.

    Args:
        path: the folder.
        dtype: what the weights are stored in.
        error: distance of its logits (a reward model's scores) from the trained model's, relative
            to their norm.
        tolerance: the largest that would have been let through.
        size: bytes of all files.
    """

    path: Path
    dtype: str
    error: float
    tolerance: float
    size: int


def export(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    form: Format,
    dtype: str | None = None,
    model: str | None = None,
    hub_client: HubClient | None = None,
) -> Exported:
    """Write trained weights in one of three formats, whole or not at all.

    What was written is loaded again, as its users will load it: it must split text into the same
    tokens, and give the trained model's logits within a tolerance that its dtype explains and that
    is smaller than what the training changed.

    Args:
        source: a run's folder, or one that PEFT loads.
        out: a new or empty folder.
        form: ``peft``: LoRA weights (and a scalar head) alone; ``merged``: one model for
            transformers; ``gguf``: one file for llama.cpp.
        dtype: one of `DTYPES` for this format; None for its first.
        model: the model they belong to, where it is not the one that is written down.
        hub_client: fetches a model that is not on this machine.

    Raises:
        ConfigError: another format or dtype, no such model, or `out` holds something.
        PortError: something cannot be read or written, or what was written is not near enough.
    """
    stored = _checked(form, dtype, Path(out))
    lora = nn.saved_lora(source)
    if lora.scored and form == "gguf":
        raise ConfigError(
            "export: a reward model cannot be written as gguf, which has no place for its scalar "
            "head; peft and merged have"
        )
    base = prepare_model(model or lora.base_model, hub_client)
    tokenizer: Any = load_tokenizer(str(base), port="export")
    probes = [tokenizer.encode(text, add_special_tokens=False)[:_PROBE_TOKENS] for text in _PROBES]
    trained = read_model(base)
    untrained = None if lora.scored else _outputs(trained, probes)
    _add_lora(trained, lora)
    want = _outputs(trained, probes)
    with nn.atomic_folder(out, doing="export") as folder:
        name = re.sub(r"[^\w.-]+", "-", Path(source).resolve().name)
        _write(trained, tokenizer, folder, form, stored, base=model or lora.base_model, name=name)
        del trained  # one copy at a time
        again = _read_again(base, folder, form, lora.scored, probes)
        error = _distance(_outputs(again, probes), want)
        _refuse_far(error, None if untrained is None else _distance(untrained, want), stored, form)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Exported(Path(out), stored, error, TOLERANCE[stored], size)


def _checked(form: str, dtype: str | None, out: Path) -> str:
    if form not in DTYPES:
        raise ConfigError(f"export: format must be one of {', '.join(DTYPES)}, got {form!r}")
    stored = next(iter(DTYPES[form])) if dtype is None else dtype
    if stored not in DTYPES[form]:
        known = ", ".join(DTYPES[form])
        raise ConfigError(f"export: dtype of {form} must be one of {known}, got {stored!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"export: out must be a new or an empty folder, got {out}")
    return stored


def _add_lora(model: Any, lora: nn.SavedLora) -> None:
    if lora.scored:
        nn.add_scalar_head(model, model.get_output_embeddings().weight.shape[1])
    try:
        nn.load_lora(model, lora.path)
    except ConfigError as error:
        raise PortError(f"export: {lora.path} does not fit: {error}") from error


def _write(
    model: Any, tokenizer: Any, folder: Path, form: str, dtype: str, *, base: str, name: str
) -> None:
    if form == "peft":
        write_lora(model, folder, base_model=base)
        return
    if model.config.tie_word_embeddings and isinstance(
        model.get_output_embeddings(), nn.LoraLinear
    ):
        raise ConfigError(
            f"export: {form} must have an update on other layers than the head, which is the "
            "model's embedding too; peft keeps it apart"
        )
    scored = nn.scalar_head(model) is not None
    state = nn.merged_state_dict(model)
    if form == "gguf":
        file = folder / f"{name}-{dtype}.gguf"
        write_gguf(file, model.config, state, tokenizer, dtype=dtype, name=name)
        return
    stored = {
        key: value.to(DTYPES[form][dtype]) if value.is_floating_point() else value
        for key, value in state.items()
        # A classifier has no head over the vocabulary.
        if not scored or key.startswith((f"{model.base_model_prefix}.", f"{nn.HEAD}."))
    }
    plain = plain_model(model.config, stored, scored=scored)
    if not scored:
        plain.generation_config = model.generation_config
    with quiet():
        plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read_again(
    base: Path, folder: Path, form: str, scored: bool, probes: Sequence[Sequence[int]]
) -> Any:
    """What was written, as its users load it."""
    if form == "peft":
        model = read_model(base)
        _add_lora(model, nn.saved_lora(folder))
        return model
    if form == "merged":
        _check_tokens(folder, probes)
        return read_model(folder, scored=scored)
    with tempfile.TemporaryDirectory(prefix="crucible-export-") as temporary:
        (file,) = folder.glob("*.gguf")
        gguf.convert(file, Path(temporary))
        _check_tokens(Path(temporary), probes)
        return read_model(temporary)


def _check_tokens(folder: Path, probes: Sequence[Sequence[int]]) -> None:
    again: Any = load_tokenizer(str(folder), port="export")
    for text, tokens in zip(_PROBES, probes, strict=True):
        got = again.encode(text, add_special_tokens=False)[:_PROBE_TOKENS]
        if list(tokens) != got:
            raise PortError(
                f"export: what was written splits {text!r} into other tokens than the model's "
                f"tokenizer: {got[:8]} ... instead of {list(tokens[:8])} ..."
            )


@torch.no_grad()
def _outputs(model: Any, probes: Sequence[Sequence[int]]) -> Tensor:
    """The logits of every probe, float64 [T, V]; of a reward model the scores, [probes]."""
    head = nn.scalar_head(model)
    outputs = []
    for tokens in probes:
        ids = torch.tensor([list(tokens)])
        if head is None:
            outputs.append(model(input_ids=ids, use_cache=False).logits[0])
        else:
            body = model.base_model(input_ids=ids, use_cache=False)
            outputs.append(head(body.last_hidden_state[0, -1:]))
    return torch.cat(outputs).double()


def _distance(got: Tensor, want: Tensor) -> float:
    """Norm of the difference relative to that of `want`."""
    return float((got - want).norm() / want.norm())


def _refuse_far(error: float, changed: float | None, dtype: str, form: str) -> None:
    if not error <= TOLERANCE[dtype]:
        raise PortError(
            f"export: the {form} model in {dtype} must give the trained model's logits within "
            f"{TOLERANCE[dtype]:.0e} of their norm, got {error:.1e}; nothing was kept"
        )
    if changed and error >= changed:
        raise PortError(
            f"export: {dtype} is too coarse: it moves the logits by {error:.1e} of their norm, and "
            f"the training only by {changed:.1e}; dtype=float32 keeps what was learnt"
        )
