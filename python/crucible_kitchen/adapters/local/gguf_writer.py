"""GGUF files for llama.cpp, from a model's weights and its tokenizer.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, LlamaFileType, TokenType
from torch import Tensor

from crucible_kitchen.errors import PortError

ARCHITECTURES: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "llama": gguf.MODEL_ARCH.LLAMA,
        "mistral": gguf.MODEL_ARCH.LLAMA,
        "qwen2": gguf.MODEL_ARCH.QWEN2,
        "qwen3": gguf.MODEL_ARCH.QWEN3,
    }
)
"""``model_type`` of transformers -> llama.cpp's architecture."""

_TYPES: Final = MappingProxyType(
    {
        "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
        "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
        "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
        "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    }
)
# How byte-level BPE splits text first, and what llama.cpp calls that.
_QWEN2_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_SPLIT: Final = _QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_SPLITS: Final = MappingProxyType({_QWEN2_SPLIT: "qwen2", _LLAMA3_SPLIT: "llama-bpe"})


def write_gguf(
    file: Path,
    config: Any,
    state: Mapping[str, Tensor],
    tokenizer: Any,
    *,
    dtype: str,
    name: str,
) -> None:
    """Write a causal language model.

    Matrices are stored in `dtype`, vectors in float32 as llama.cpp does.

    Args:
        file: a new one.
        config: of the model, as transformers has it.
        state: its weights, by transformers' names.
        tokenizer: byte-level BPE.
        dtype: ``float32``, ``float16``, ``bfloat16`` or ``q8_0``.
        name: what the file calls the model.

    Raises:
        PortError: llama.cpp has no such model or tokenizer, or none that this can write.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise _cannot(
            f"the model must be one of {', '.join(ARCHITECTURES)}, got {config.model_type!r}"
        )
    kind, file_type = _TYPES[dtype]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        writer.add_name(name)
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, config, state)
        _add_tokenizer(writer, config, tokenizer)
        _add_tensors(writer, architecture, config, state, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_shape(writer: Any, config: Any, state: Mapping[str, Tensor]) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise _cannot(f"rotary positions must be plain, got {rope['rope_type']!r}")
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise _cannot(f"attention must be whole, got sliding_window={config.sliding_window}")
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tensors(
    writer: Any, architecture: Any, config: Any, state: Mapping[str, Tensor], kind: Any
) -> None:
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for key, value in state.items():
        if tied and key == "lm_head.weight":
            continue
        ours = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if ours is None:
            raise _cannot(f"llama.cpp has no place for {key!r}")
        values = value.float().numpy()
        if architecture == gguf.MODEL_ARCH.LLAMA:
            values = _interleaved(key, values, config)
        stored = kind if values.ndim > 1 and _fits(values, kind) else GGMLQuantizationType.F32
        writer.add_tensor(ours, gguf.quantize(values, stored), raw_dtype=stored)


def _interleaved(key: str, values: npt.NDArray[np.float32], config: Any) -> npt.NDArray[np.float32]:
    """Rows of queries and keys in the order of llama.cpp, which rotates neighbours, not halves."""
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }.get(key.split(".")[-2])
    if heads is None:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _fits(values: npt.NDArray[np.float32], kind: Any) -> bool:
    """Whether rows divide into the blocks of a type."""
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return int(values.shape[-1]) % int(block) == 0


def _add_tokenizer(writer: Any, config: Any, tokenizer: Any) -> None:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    if model["type"] != "BPE" or not _is_byte_level(content):
        raise _cannot(f"the tokenizer must be byte-level BPE, got {model['type']}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(content["pre_tokenizer"]))
    tokens, types = _vocabulary(content, config.vocab_size)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    for token in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{token}_token_id")
        if number is not None:
            getattr(writer, f"add_{token}_token_id")(number)
    writer.add_add_bos_token(tokenizer.encode("a")[:1] == [tokenizer.bos_token_id])
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _vocabulary(content: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """The text and the type of every token id; ids without a token are filled up."""
    by_id = {number: token for token, number in content["model"]["vocab"].items()}
    types = dict.fromkeys(by_id, TokenType.NORMAL)
    for added in content["added_tokens"]:
        by_id[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(size)]
    return tokens, [int(types.get(number, TokenType.UNUSED)) for number in range(size)]


def _parts(pre_tokenizer: Any) -> Sequence[Mapping[str, Any]]:
    given = pre_tokenizer or {"type": "none"}
    parts: Sequence[Mapping[str, Any]] = given.get("pretokenizers", [given])
    return parts


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return any(part["type"] == "ByteLevel" for part in _parts(content["pre_tokenizer"]))


def _split_name(pre_tokenizer: Any) -> str:
    """What llama.cpp calls a tokenizer's way to split text."""
    parts = _parts(pre_tokenizer)
    kinds = [part["type"] for part in parts]
    by_regex = parts[-1].get("use_regex", True)
    if kinds == ["ByteLevel"] and by_regex:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and by_regex and parts[0]["individual_digits"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not by_regex:
        name = _SPLITS.get(parts[0]["pattern"].get("Regex", ""))
        if name is not None:
            return name
    raise _cannot(f"the tokenizer splits text in a way that is not known here: {pre_tokenizer}")


def _cannot(why: str) -> PortError:
    return PortError(
        f"export: cannot write this as gguf: {why}; --format merged takes it, and llama.cpp's own "
        "converter reads that"
    )
