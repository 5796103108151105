"""What a caller asks of an optimizer step and of a sampler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .record import Record, finite


@dataclass(frozen=True, slots=True)
class AdamParams(Record):
    """One AdamW step's settings.

    Args:
        learning_rate: step size, at least 0.
        beta1: decay of the mean of gradients, in [0, 1).
        beta2: decay of the mean of their squares, in [0, 1).
        eps: added to the root of the second moment, above 0.
        weight_decay: decoupled decay, at least 0.
        grad_clip_norm: largest norm of all gradients together; 0 means no clipping.

    Raises:
        TypeError, ValueError: a value out of its range.
    """

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "weight_decay", "grad_clip_norm", "beta1", "beta2"):
            object.__setattr__(self, name, finite("AdamParams", name, self[name], low=0.0))
        for name in ("beta1", "beta2"):
            if self[name] >= 1.0:
                raise ValueError(f"AdamParams: {name} must be in [0, 1), got {self[name]}")
        if self.eps == 0.0:
            raise ValueError("AdamParams: eps must be above 0, got 0.0")

    @classmethod
    def coerce(cls, value: Any) -> AdamParams:
        """`value` as `AdamParams`: one already, a mapping, or a bare learning rate.

        Raises:
            TypeError, ValueError: it is none of these, or as the constructor.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        return cls(learning_rate=value)


@dataclass(frozen=True, slots=True)
class SamplingParams(Record):
    """How to draw tokens.

    Args:
        max_tokens: most tokens to draw, at least 1.
        temperature: 0 takes the likeliest token each time.
        top_k: keep the k likeliest tokens; -1 keeps all.
        top_p: keep the likeliest tokens that hold this share of probability, in (0, 1].
        seed: makes the draw repeatable; None leaves it to the sampler.
        stop: text or token ids that end a sample, beside the tokenizer's end of sequence, which is
            all that does where it is None; where it is empty, nothing does.

    Raises:
        TypeError, ValueError: a value out of its range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] | Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "top_k", "seed"):
            value = self[name]
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole and not (name == "seed" and value is None):
                raise TypeError(f"SamplingParams: {name} must be a whole number, got {value!r}")
        if self.max_tokens < 1:
            raise ValueError(
                f"SamplingParams: max_tokens must be at least 1, got {self.max_tokens}"
            )
        if self.top_k != -1 and self.top_k < 1:
            raise ValueError(f"SamplingParams: top_k must be -1 or at least 1, got {self.top_k}")
        for name in ("temperature", "top_p"):
            object.__setattr__(self, name, finite("SamplingParams", name, self[name], low=0.0))
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"SamplingParams: top_p must be in (0, 1], got {self.top_p}")
        object.__setattr__(self, "stop", _stops(self.stop))

    @classmethod
    def coerce(cls, value: Any) -> SamplingParams:
        """`value` as `SamplingParams`: one already, or a mapping.

        Raises:
            TypeError, ValueError: it is neither, or as the constructor.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        raise TypeError(
            f"SamplingParams: value must be SamplingParams or a mapping, got {type(value).__name__}"
        )


def _stops(stop: Any) -> tuple[str, ...] | tuple[int, ...] | None:
    if stop is None:
        return None
    if isinstance(stop, str | int):
        stop = (stop,)
    kinds = set(map(type, stop)) if isinstance(stop, Iterable) else {object}
    stops = tuple(stop) if kinds <= {str} or kinds == {int} else None
    if stops is None or "" in stops:
        raise TypeError(f"SamplingParams: stop must be strings or token ids, got {stop!r}")
    return stops
