"""Rows that are too long: where to cut, without silently losing what is learnt from them."""

from __future__ import annotations

from typing import Final

import numpy as np

from crucible_kitchen.data.render import Rendered
from crucible_kitchen.errors import ConfigError, DataError, did_you_mean

TRUNCATIONS: Final = ("error", "drop", "left", "right", "middle")
"""What to do with a row of more than `max_length` tokens: refuse it; leave it out, counted; cut its
beginning; cut its end; or cut the middle of its prompt."""


def check_truncation(truncation: str) -> None:
    """Refuse a name that is not one of `TRUNCATIONS`.

    Raises:
        ConfigError: it is not.
    """
    if truncation not in TRUNCATIONS:
        advice = did_you_mean(truncation, TRUNCATIONS)
        raise ConfigError(
            f"truncation: must be one of {', '.join(TRUNCATIONS)}, got {truncation!r}; {advice}"
        )


def truncated(rendered: Rendered, max_length: int, truncation: str) -> Rendered | None:
    """A row of at most `max_length` tokens; None, if it is to be left out.

    ``left`` keeps the last answer whole, ``middle`` every answer and both ends of the prompt.
    ``right`` cuts into the last answer, but leaves a part of one. Text that is trained whole has no
    prompt: ``left`` and ``middle`` cut its beginning.

    Raises:
        DataError: the row is too long and `truncation` is ``error``, or cutting as asked would cost
            an answer.
    """
    length = len(rendered.tokens)
    if length <= max_length:
        return rendered
    if truncation == "drop":
        return None
    too_long = f"has {length} tokens, more than max_length = {max_length}"
    if truncation == "error":
        ways = ", ".join(repr(way) for way in TRUNCATIONS[1:])
        raise DataError(f"{too_long}; a larger max_length or truncation = {ways} takes it")
    kept = _kept(np.asarray(rendered.weights), max_length, truncation)
    if kept is None:
        raise DataError(
            f"{too_long}, and truncation={truncation!r} cannot cut it without losing the answer; "
            "a larger max_length takes it, truncation='drop' leaves it out"
        )
    return Rendered(
        tuple(rendered.tokens[i] for i in kept), tuple(rendered.weights[i] for i in kept)
    )


def _kept(weights: np.ndarray, max_length: int, truncation: str) -> list[int] | None:
    """The places of the tokens that stay; None, where that would cost an answer."""
    length = len(weights)
    trained = np.flatnonzero(weights)
    if truncation == "right":
        # The first token of a row is not predicted, so it does not count.
        left_over = ((trained > 0) & (trained < max_length)).any()
        return list(range(max_length)) if left_over else None
    if len(trained) == length:
        return list(range(length - max_length, length))
    if truncation == "left":
        untrained = np.flatnonzero(weights[: trained[-1]] == 0)
        answer = int(untrained[-1]) + 1 if len(untrained) else 0
        start = length - max_length
        # One token must stay before the answer, for its first token to be predicted from.
        return list(range(start, length)) if start < answer else None
    prompt = int(trained[0])
    spare = max_length - (length - prompt)
    if spare < 1:
        return None
    head = spare // 2
    return [*range(head), *range(prompt - (spare - head), length)]
