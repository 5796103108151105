"""How near an answer is to a reference: one function a metric, each giving a number in [0, 1]."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

from crucible_kitchen.errors import DataError

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_NUMBER: Final = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def exact_match(answer: str, reference: str) -> float:
    """Equal but for space at both ends."""
    return float(answer.strip() == reference.strip())


def contains(answer: str, reference: str) -> float:
    """The reference stands somewhere in the answer, letter case aside."""
    return float(reference.strip().casefold() in answer.casefold())


def regex(answer: str, reference: str) -> float:
    """The reference, a regular expression, matches somewhere in the answer.

    Raises:
        DataError: it is no regular expression.
    """
    try:
        return float(re.search(reference, answer) is not None)
    except re.error as error:
        raise DataError(f"evaluator: {reference!r} must be a regular expression: {error}") from None


def numeric(answer: str, reference: str) -> float:
    """The last number in the answer is the last one in the reference, as GSM8K is scored.

    Raises:
        DataError: the reference has no number.
    """
    wanted = _last_number(reference)
    if wanted is None:
        raise DataError(f"evaluator: reference must hold a number, got {reference!r}")
    return float(_last_number(answer) == wanted)


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of the words' precision and recall.

    Source: Rajpurkar et al. 2016, section 6.1, https://arxiv.org/abs/1606.05250
    """
    said, wanted = _words(answer), _words(reference)
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


TEXT_METRICS: Final[Mapping[str, Callable[[str, str], float]]] = {
    "exact_match": exact_match,
    "contains": contains,
    "regex": regex,
    "numeric": numeric,
    "f1": f1,
}
"""Name -> function of an answer and a reference."""


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split()


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None
