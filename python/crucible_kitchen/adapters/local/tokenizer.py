"""The tokenizer in a model's folder."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import Tokenizer


def load_tokenizer(folder: str, *, port: str) -> Tokenizer:
    """Read it.

    Args:
        port: who asks, for the error.

    Raises:
        PortError: there is none, or it cannot be read.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise PortError(f"{port}: could not load the tokenizer of {folder}: {error}") from error
    return tokenizer  # type: ignore[no-any-return]
