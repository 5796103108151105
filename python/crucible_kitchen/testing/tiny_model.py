"""A random causal language model of a few hundred kilobytes, for tests without a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEXT = (
    "Return the number of items in the list.\nA kitchen has a recipe, a stove and a cook.\n"
    "def length(items): return sum(1 for item in items)\nThe cook reads the recipe and returns.\n"
)


def tiny_llama(folder: str | os.PathLike[str], *, seed: int = 0, vocabulary: int = 512) -> str:
    """Write a Llama of 2 layers (hidden 64, 4 heads, 2 key-value heads, tied head) and a tokenizer.

    Args:
        folder: made if need be.
        seed: of the weights; equal seeds give equal files.
        vocabulary: at least 320; the tokenizer uses as many ids as its small text gives.

    Returns:
        The folder, which any transformers ``from_pretrained`` reads.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # The usual 0.02 leaves the logits near zero, where a wrong computation could hide.
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.data.normal_(std=weight.shape[1] ** -0.5)
    model.save_pretrained(path)
    _save_tokenizer(path, vocabulary)
    return str(path)


def _save_tokenizer(folder: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator([_TEXT], trainer)
    # Any: transformers does not annotate its constructor.
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
