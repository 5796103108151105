"""A tokenizer of bytes, with a conversation template: all of `Tokenizer` in plain Python."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_SPECIAL: Final[Mapping[str, int]] = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
_SPECIAL_TEXT: Final[Mapping[int, str]] = {token: text for text, token in _SPECIAL.items()}
_SPLIT: Final = re.compile("(" + "|".join(map(re.escape, _SPECIAL)) + ")")

CHATML: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class ByteTokenizer:
    """One token a UTF-8 byte, three special tokens, ChatML conversations.

    ``decode(encode(text)) == text`` for every text. Nothing is put around a text, so
    `add_special_tokens` changes nothing. `CHATML` says in Jinja what `apply_chat_template` does.

    Args:
        name_or_path: where `save_pretrained` wrote it, if it did.
    """

    pad_token_id: Final = 256
    eos_token_id: Final = 258
    bos_token_id: Final = None
    pad_token: Final = "<|endoftext|>"
    eos_token: Final = "<|im_end|>"
    bos_token: Final = None
    chat_template: Final = CHATML
    vocab_size: Final = 259

    def __init__(self, name_or_path: str = "") -> None:
        self.name_or_path = name_or_path

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The bytes of `text`; where a special token's text stands in it, that token."""
        tokens: list[int] = []
        for part in _SPLIT.split(text):
            if part in _SPECIAL:
                tokens.append(_SPECIAL[part])
            else:
                tokens.extend(part.encode("utf-8"))
        return tokens

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of the bytes; bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: a token beyond the vocabulary.
        """
        pieces = bytearray()
        for token in token_ids:
            if 0 <= token < 256:
                pieces.append(token)
            elif token in _SPECIAL_TEXT:
                if not skip_special_tokens:
                    pieces.extend(_SPECIAL_TEXT[token].encode())
            else:
                raise ValueError(f"decode: token_ids must be below {self.vocab_size}, got {token}")
        return pieces.decode("utf-8", errors="replace")

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of a special token or of a single byte's character; None for any other text."""
        tokens = self.encode(token)
        return tokens[0] if len(tokens) == 1 else None

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        return_dict: bool = False,
        **variables: Any,
    ) -> str | list[int] | dict[str, list[int]]:
        """A conversation in ChatML.

        Args:
            conversation: mappings with ``role`` and ``content``.
            tokenize: give tokens instead of text.
            add_generation_prompt: end with the header of the assistant's turn.
            return_dict: give tokens as ``{"input_ids": ..., "attention_mask": ...}``.
            variables: what other templates read (tools, dates); this one reads none.
        """
        turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in conversation]
        text = "".join(turns) + ("<|im_start|>assistant\n" if add_generation_prompt else "")
        if not tokenize:
            return text
        tokens = self.encode(text)
        if return_dict:
            return {"input_ids": tokens, "attention_mask": [1] * len(tokens)}
        return tokens

    def save_pretrained(self, folder: Path) -> None:
        """Write it as transformers' ``AutoTokenizer`` loads it."""
        by_byte = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        tokenizer = {
            "version": "1.0",
            "added_tokens": [
                {"id": token, "content": text, "special": True, **dict.fromkeys(flags, False)}
                for text, token in _SPECIAL.items()
            ],
            "pre_tokenizer": {"type": "ByteLevel", **by_byte},
            "decoder": {"type": "ByteLevel", **by_byte},
            "model": {"type": "BPE", "vocab": _letters(), "merges": []},
        }
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
            "chat_template": self.chat_template,
            "clean_up_tokenization_spaces": False,
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("tokenizer", tokenizer), ("tokenizer_config", settings)):
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def _letters() -> dict[str, int]:
    """The character that ``ByteLevel`` writes for each byte, which is its token.

    Printable bytes of Latin-1 stand for themselves, the others for U+0100 and on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}
