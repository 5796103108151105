"""Rows of a data set as datums: what a training client takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from crucible_kitchen.data.columns import Place
from crucible_kitchen.data.formats import Conversation, PlainText, parse_row
from crucible_kitchen.data.render import Rendered, render
from crucible_kitchen.data.spans import check_train_on
from crucible_kitchen.data.truncate import check_truncation, truncated
from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.ports import Tokenizer
from crucible_kitchen.types import Datum, ModelInput, TensorData

TOO_LONG: Final = "too long"
UNTRAINED: Final = "nothing in it is trained"


@dataclass(frozen=True)
class Statistics:
    """What became of the rows of a data set.

    Args:
        rows: rows that came.
        datums: rows that are trained on.
        tokens: positions of all datums together.
        trained_tokens: those of them with a weight other than 0.
        longest: positions of the longest datum.
        truncated: rows that were cut.
        dropped_long: rows left out because they were too long.
        dropped_untrained: rows left out because nothing in them is trained.
    """

    rows: int
    datums: int
    tokens: int
    trained_tokens: int
    longest: int
    truncated: int
    dropped_long: int
    dropped_untrained: int

    @property
    def dropped(self) -> int:
        """Rows left out, for whatever reason."""
        return self.dropped_long + self.dropped_untrained


class Prepared(NamedTuple):
    """Datums in the order of their rows, and what became of the rows."""

    datums: list[Datum]
    statistics: Statistics


def prepare(
    rows: Iterable[Any],
    tokenizer: Tokenizer,
    *,
    train_on: str = "last_assistant",
    max_length: int | None = None,
    truncation: str = "error",
    untrained: Literal["error", "drop"] = "error",
    places: Sequence[Place] | None = None,
) -> Prepared:
    """Parse, render, cut and shift every row of a data set.

    Args:
        rows: in any of the formats that `parse_row` reads.
        train_on: one of `TRAIN_ON`.
        max_length: most tokens of a row, its last target included; None for no bound.
        truncation: one of `TRUNCATIONS`, for rows that are longer.
        untrained: what to do with a row of which no token is trained.
        places: of each row, its place in the data set, where `rows` are only some of it; errors
            name a row by it.

    Raises:
        ConfigError: an unknown `train_on`, `truncation` or `untrained`, or a `max_length` below 2.
        DataError: a row cannot be used, which the message names; or no row is left.
    """
    _check(train_on, max_length, truncation, untrained)
    datums: list[Datum] = []
    left: Counter[str] = Counter()
    count = cut = 0
    for number, row in enumerate(rows):
        count += 1
        made = prepare_row(
            row,
            number if places is None else places[number],
            tokenizer,
            train_on=train_on,
            max_length=max_length,
            truncation=truncation,
            untrained=untrained,
        )
        if isinstance(made, str):
            left[made] += 1
        else:
            cut += made.cut
            datums.append(made.datum)
    long, empty = left[TOO_LONG], left[UNTRAINED]
    if not datums:
        raise DataError(
            f"no row to train on: {count} came, {long} are too long and {empty} have no trained "
            "token"
            if count
            else "no row to train on: the data set is empty"
        )
    lengths = [datum.model_input.length for datum in datums]
    statistics = Statistics(
        rows=count,
        datums=len(datums),
        tokens=sum(lengths),
        trained_tokens=sum(datum.num_trained_tokens for datum in datums),
        longest=max(lengths),
        truncated=cut,
        dropped_long=long,
        dropped_untrained=empty,
    )
    return Prepared(datums, statistics)


class Made(NamedTuple):
    """One row as a datum, and whether it was too long."""

    datum: Datum
    cut: bool


def prepare_row(
    row: Any,
    place: Place,
    tokenizer: Tokenizer,
    *,
    train_on: str,
    max_length: int | None,
    truncation: str,
    untrained: str,
) -> Made | str:
    """What `prepare` makes of one row: a datum, or `TOO_LONG` or `UNTRAINED` where it is left out.

    Raises:
        DataError: it cannot be used; the message names it by its place.
    """
    example = parse_row(row, place)
    try:
        bad = isinstance(example, Conversation) and example.label is False
        whole = None if bad else to_last_trained(render(example, tokenizer, train_on))
        if whole is None:
            if untrained == "error":
                raise DataError(_nothing_trained(example, train_on))
            return UNTRAINED
        fitted = whole if max_length is None else truncated(whole, max_length, truncation)
    except DataError as error:
        raise DataError(f"row {place}: {error}") from error
    return TOO_LONG if fitted is None else Made(shifted(fitted), fitted is not whole)


def build_datums(
    rows: Iterable[Any],
    tokenizer: Tokenizer,
    *,
    train_on: str = "last_assistant",
    max_length: int | None = None,
    truncation: str = "error",
    untrained: Literal["error", "drop"] = "error",
    places: Sequence[Place] | None = None,
) -> list[Datum]:
    """The datums of `prepare`, for who does not ask what became of the rows."""
    return prepare(
        rows,
        tokenizer,
        train_on=train_on,
        max_length=max_length,
        truncation=truncation,
        untrained=untrained,
        places=places,
    ).datums


def _check(train_on: str, max_length: int | None, truncation: str, untrained: str) -> None:
    check_train_on(train_on)
    check_truncation(truncation)
    if untrained not in ("error", "drop"):
        raise ConfigError(f"untrained: must be error or drop, got {untrained!r}")
    if max_length is not None and max_length < 2:
        raise ConfigError(
            f"max_length: must be at least 2, one token and one to predict, got {max_length}"
        )


def to_last_trained(rendered: Rendered) -> Rendered | None:
    """The row up to its last trained token; None, if no token is predicted and trained.

    A causal model's predictions do not depend on what follows, so the rest would only cost time.
    """
    trained = np.flatnonzero(np.asarray(rendered.weights))
    if not len(trained) or trained[-1] == 0:
        return None
    end = int(trained[-1]) + 1
    return Rendered(rendered.tokens[:end], rendered.weights[:end])


def _nothing_trained(example: Conversation | PlainText, train_on: str) -> str:
    if isinstance(example, PlainText):
        return "has no trained token: its text is a single token, which nothing predicts"
    if example.label is False:
        return (
            "has no trained token: its label says that its answer is not one to learn; "
            "untrained='drop' leaves such rows out"
        )
    roles = ", ".join(message.role for message in example.messages)
    return f"has no trained token: train_on={train_on!r} and its messages are of {roles}"


def shifted(rendered: Rendered) -> Datum:
    """A row as a datum: each token is the target of the position before it."""
    # What stands at position t is trained by the prediction made at t - 1.
    return Datum(
        ModelInput.from_ints(rendered.tokens[:-1]),
        {
            "target_tokens": TensorData(np.asarray(rendered.tokens[1:], dtype=np.int64)),
            "weights": TensorData(np.asarray(rendered.weights[1:], dtype=np.float32)),
        },
    )
