"""GGUF files, as llama.cpp writes them, as folders that transformers loads."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Final

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from crucible_kitchen.adapters.local.model import quiet
from crucible_kitchen.errors import PortError

FORMAT: Final = 1
"""Raised whenever `convert` would write something else from the same file."""

# Names of ``tokenizer.ggml.pre`` for byte-level BPE that splits text by GPT-2's rule...
_GPT2_SPLIT: Final = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "default"})
# ... and by that rule with every digit on its own, which transformers 5 reads as the plain one.
_DIGITS_SPLIT: Final = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}
)


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as ``config.json``, safetensors, ``tokenizer.json``.

    Weights are stored in float32. A quantised block is `scale * integer + offset` with float16
    scale and offset; only float32 holds these products as they are, and a float32 file is mapped
    into memory instead of being converted when the model is loaded in float32.

    Args:
        folder: an empty one.

    Raises:
        PortError: the file is no GGUF, or of a kind of model or tokenizer that cannot be read.
    """
    pre, tokens = _header(file)
    try:
        with quiet():
            where: dict[str, Any] = {"gguf_file": file.name}
            tokenizer: Any = AutoTokenizer.from_pretrained(os.fspath(file.parent), **where)
            model: Any = AutoModelForCausalLM.from_pretrained(
                os.fspath(file.parent), dtype=torch.float32, **where
            )
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise PortError(f"local model: could not read {file}: {error}") from error
    _correct_split(tokenizer, pre, file)
    _check_tokens(tokenizer, tokens, file)
    with quiet():
        _plain(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _header(file: Path) -> tuple[str, list[str]]:
    """How the tokenizer splits text (empty where the file does not say), and its tokens."""
    try:
        reader = gguf.GGUFReader(file)
    except (ValueError, OSError, IndexError) as error:
        raise PortError(f"local model: {file} is not a GGUF file: {error}") from error

    def value(key: str, otherwise: Any) -> Any:
        field = reader.get_field(f"tokenizer.ggml.{key}")
        return otherwise if field is None else field.contents()

    tokens = value("tokens", None)
    if tokens is None:
        raise PortError(f"local model: {file} has no tokenizer in it, and a model needs one")
    byte_level = value("model", "") == "gpt2"
    return (str(value("pre", "default")) if byte_level else ""), list(tokens)


def _correct_split(tokenizer: Any, pre: str, file: Path) -> None:
    """Make byte-level BPE split text as the model's own tokenizer does.

    Otherwise whitespace before digits comes out as other tokens than the model was trained on.
    """
    backend = tokenizer.backend_tokenizer
    if pre in _DIGITS_SPLIT:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif (
        pre
        and pre not in _GPT2_SPLIT
        and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
    ):
        raise PortError(
            f"local model: {file} splits text by the rule {pre!r}, which is not known here; use "
            "the model's safetensors folder, whose tokenizer.json says how"
        )


def _check_tokens(tokenizer: Any, tokens: list[str], file: Path) -> None:
    """Refuse a tokenizer whose end and padding tokens are not single tokens of the file."""
    for name in ("eos_token", "pad_token"):
        token = getattr(tokenizer, name)
        if token is None:
            continue
        ids = tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1 or tokens[ids[0]] != token:
            raise PortError(
                f"local model: {name} {token!r} of {file} must be one token, got ids {ids}"
            )


def _plain(model: Any) -> Any:
    """The model as if it had never been quantised; transformers refuses to save any other."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # On "meta" nothing is allocated or initialised: the weights are those of `model`.
    with torch.device("meta"):
        plain: Any = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain
