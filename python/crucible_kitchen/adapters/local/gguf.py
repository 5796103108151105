"""GGUF files, as llama.cpp writes them, as folders that transformers loads."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from crucible_kitchen.adapters.local.model import quiet
from crucible_kitchen.adapters.local.plain import plain_model
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
    rule = _splitting_rule(file)
    try:
        with quiet(), _no_bar_of_tensors():
            where: dict[str, Any] = {"gguf_file": file.name}
            tokenizer: Any = AutoTokenizer.from_pretrained(os.fspath(file.parent), **where)
            model: Any = AutoModelForCausalLM.from_pretrained(
                os.fspath(file.parent), dtype=torch.float32, **where
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise PortError(f"local model: could not read {file}: {error}") from error
    _correct_split(tokenizer, rule, file)
    _check_tokens(tokenizer, model, file)
    with quiet():
        # As if it had never been quantised: transformers refuses to save any other.
        plain = plain_model(model.config, model.state_dict())
        plain.generation_config = model.generation_config
        plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _no_bar_of_tensors() -> Iterator[None]:
    """No bar over a file's tensors, which transformers draws past its own switch."""
    reader: Any = modeling_gguf_pytorch_utils
    drawn = reader.tqdm
    reader.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        reader.tqdm = drawn


def _splitting_rule(file: Path) -> str:
    """What byte-level BPE in the file splits text by; empty for other tokenizers.

    Raises:
        PortError: the file is no GGUF, or holds no tokenizer.
    """
    with file.open("rb") as source:
        if source.read(4) != b"GGUF":
            raise PortError(f"local model: {file} is not a GGUF file")
        with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as content:
            kind = _text_field(content, "tokenizer.ggml.model")
            if not kind:
                raise PortError(
                    f"local model: {file} has no tokenizer in it, and a model needs one"
                )
            rule = _text_field(content, "tokenizer.ggml.pre") or "default"
    return rule if kind == "gpt2" else ""


def _text_field(content: mmap.mmap, key: str) -> str:
    """A text field of a GGUF's header, empty where it is absent.

    A key stands behind its length, and before the number of its value's type. Looking for that
    takes no time; `gguf.GGUFReader` takes seconds to list a vocabulary that nobody asked for.
    """
    name = struct.pack("<Q", len(key)) + key.encode()
    text_type = struct.pack("<I", 8)
    at = content.find(name + text_type)
    if at < 0:
        return ""
    at += len(name) + len(text_type)
    (length,) = struct.unpack_from("<Q", content, at)
    return content[at + 8 : at + 8 + length].decode("utf-8", errors="replace")


def _correct_split(tokenizer: Any, rule: str, file: Path) -> None:
    """Make byte-level BPE split text as the model's own tokenizer does.

    Otherwise whitespace before digits comes out as other tokens than the model was trained on.
    """
    backend = tokenizer.backend_tokenizer
    if rule in _DIGITS_SPLIT:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif (
        rule
        and rule not in _GPT2_SPLIT
        and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
    ):
        raise PortError(
            f"local model: {file} splits text by the rule {rule!r}, which is not known here; use "
            "the model's safetensors folder, whose tokenizer.json says how"
        )


def _check_tokens(tokenizer: Any, model: Any, file: Path) -> None:
    """Refuse a tokenizer that cannot write its own end, or knows more tokens than the model."""
    for name in ("eos_token", "pad_token"):
        token = getattr(tokenizer, name)
        ids = [] if token is None else tokenizer.encode(token, add_special_tokens=False)
        if token is not None and ids != [getattr(tokenizer, f"{name}_id")]:
            raise PortError(
                f"local model: {name} {token!r} of {file} must be one token, got ids {ids}"
            )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise PortError(
            f"local model: {file} must have an embedding for each of its {len(tokenizer)} tokens, "
            f"got {rows}"
        )
