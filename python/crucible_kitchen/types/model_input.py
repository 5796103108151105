"""What a model reads: chunks of tokens and images."""

from __future__ import annotations

import base64
import binascii
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .record import Record


@dataclass(frozen=True, slots=True)
class EncodedTextChunk(Record):
    """Token ids of a piece of text.

    Args:
        tokens: ids, whole numbers from 0; any iterable, kept as a tuple.
    """

    tokens: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", token_ids(self.tokens, "EncodedTextChunk"))

    @property
    def length(self) -> int:
        """How many positions of the input it takes."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class ImageChunk(Record):
    """An encoded image.

    Args:
        data: the file's bytes, or a string that holds them in base64.
        format: ``png`` or ``jpeg``.
        expected_tokens: how many positions of the input it takes, where known.
    """

    data: bytes
    format: Literal["png", "jpeg"] = "png"
    expected_tokens: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.data, str):
            try:
                object.__setattr__(self, "data", base64.b64decode(self.data, validate=True))
            except binascii.Error as error:
                raise ValueError(f"ImageChunk: data must be base64, got {error}") from None
        if not isinstance(self.data, bytes):
            raise TypeError(f"ImageChunk: data must be bytes, got {type(self.data).__name__}")
        if self.format not in ("png", "jpeg"):
            raise ValueError(f"ImageChunk: format must be png or jpeg, got {self.format!r}")
        if self.expected_tokens is not None and self.expected_tokens < 1:
            raise ValueError(
                f"ImageChunk: expected_tokens must be at least 1, got {self.expected_tokens}"
            )

    @property
    def length(self) -> int:
        """How many positions of the input it takes.

        Raises:
            ValueError: it was made without `expected_tokens`.
        """
        if self.expected_tokens is None:
            raise ValueError("ImageChunk: expected_tokens must be given to know its length")
        return self.expected_tokens


Chunk = EncodedTextChunk | ImageChunk


@dataclass(frozen=True, slots=True, init=False)
class ModelInput(Record):
    """A sequence of chunks, in reading order.

    Args:
        chunks: `EncodedTextChunk` and `ImageChunk` values, or mappings that hold their fields.
    """

    chunks: tuple[Chunk, ...] = ()

    def __init__(self, chunks: Iterable[Chunk | Mapping[str, Any]] = ()) -> None:
        if isinstance(chunks, str | bytes | Mapping) or not isinstance(chunks, Iterable):
            raise TypeError(
                f"ModelInput: chunks must be a list of chunks, got {type(chunks).__name__}"
            )
        object.__setattr__(self, "chunks", tuple(map(_chunk, chunks)))

    @classmethod
    def from_ints(cls, tokens: Iterable[int]) -> ModelInput:
        """An input of one text chunk."""
        return cls((EncodedTextChunk(tuple(tokens)),))

    @classmethod
    def coerce(cls, value: Any) -> ModelInput:
        """`value` as a `ModelInput`: one already, ``{"chunks": [...]}``, or a list of token ids.

        Raises:
            TypeError, ValueError: it is none of these.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise TypeError(
                "ModelInput: value must be a ModelInput, {'chunks': [...]} or a list of token ids, "
                f"got {type(value).__name__}"
            )
        return cls.from_ints(value)

    def to_ints(self) -> list[int]:
        """All token ids.

        Raises:
            ValueError: the input holds an image.
        """
        tokens: list[int] = []
        for chunk in self.chunks:
            if not isinstance(chunk, EncodedTextChunk):
                raise ValueError("ModelInput: to_ints needs text chunks only, got an image")
            tokens.extend(chunk.tokens)
        return tokens

    @property
    def length(self) -> int:
        """How many positions the input has, images included."""
        return sum(chunk.length for chunk in self.chunks)

    def append(self, chunk: Any) -> ModelInput:
        """A new input with one more chunk (or one more token, given as an int) at its end."""
        more = EncodedTextChunk((chunk,)) if isinstance(chunk, int) else chunk
        return ModelInput((*self.chunks, more))

    def __len__(self) -> int:
        return self.length


def _chunk(value: Any) -> Chunk:
    if isinstance(value, EncodedTextChunk | ImageChunk):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(
            f"ModelInput: chunks must hold chunks or mappings, got {type(value).__name__}"
        )
    fields = {key: item for key, item in value.items() if key != "type"}
    kind = value.get("type", "encoded_text" if "tokens" in fields else "image")
    if kind == "encoded_text":
        return EncodedTextChunk.from_dict(fields)
    if kind == "image":
        return ImageChunk.from_dict(fields)
    raise ValueError(f"ModelInput: type must be encoded_text or image, got {kind!r}")


def token_ids(tokens: Any, op: str) -> tuple[int, ...]:
    """`tokens` (any iterable of whole numbers from 0, numpy and torch included) as a tuple.

    Raises:
        TypeError, ValueError: it is not that; `op` says for whom.
    """
    if isinstance(tokens, str | bytes | Mapping) or not isinstance(tokens, Iterable):
        raise TypeError(f"{op}: tokens must be a list of token ids, got {type(tokens).__name__}")
    if hasattr(tokens, "tolist"):
        tokens = tokens.tolist()
    ids = tuple(tokens)
    # The common case, a list of plain ints, is checked at the speed of C.
    if set(map(type, ids)) - {int}:
        ids = tuple(_token_id(token, op) for token in ids)
    if ids and min(ids) < 0:
        raise ValueError(f"{op}: tokens must be at least 0, got {min(ids)}")
    return ids


def _token_id(token: Any, op: str) -> int:
    if not isinstance(token, bool):
        try:
            return operator.index(token)
        except TypeError:
            pass
    raise TypeError(f"{op}: tokens must be whole numbers, got {token!r}")
