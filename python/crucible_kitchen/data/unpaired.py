"""Single answers with a label, put together into pairs of a better and a worse one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from crucible_kitchen.data.columns import Answer, Columns, Place, Prompt, Tools, YesOrNo, checked
from crucible_kitchen.errors import DataError


class _LabelledRow(Columns):
    """One answer, and whether it is a good one."""

    keys = ("prompt", "completion", "label")
    prompt: Prompt
    completion: Answer
    label: YesOrNo
    tools: Tools = ()


class PairedUp(NamedTuple):
    """Rows of preferences.

    Args:
        rows: with ``prompt``, ``chosen`` and ``rejected``.
        places: of each, where it is from.
        alone: labelled rows that found no partner.
    """

    rows: list[Any]
    places: list[Place]
    alone: int


def pair_up(rows: Sequence[Any], *, start: int = 0, unmatched: str = "error") -> PairedUp:
    """Rows of preferences, with those that have a ``label`` made into pairs by their prompt.

    Each good answer to a prompt meets a bad one; where there are more of one kind, those of the
    other come again, so that every answer is in a pair. Other rows are left as they are.

    Args:
        start: place of the first row in its data set.
        unmatched: ``error`` or ``drop`` a prompt whose answers are all good, or all bad.
    Raises:
        DataError: a labelled row is not what it should be, or has no partner; it is named.
    """
    found: list[tuple[int, Any, Place]] = []
    prompts: dict[str, dict[bool, list[int]]] = {}
    read: dict[int, _LabelledRow] = {}
    for place, row in enumerate(rows, start):
        if not _is_labelled(row):
            found.append((place, row, place))
            continue
        read[place] = checked(_LabelledRow, row, f"row {place}")
        kinds = prompts.setdefault(_prompt_of(read[place]), {True: [], False: []})
        kinds[read[place].label].append(place)
    alone = 0
    for kinds in prompts.values():
        good, bad = kinds[True], kinds[False]
        if not good or not bad:
            alone += len(good) + len(bad)
            if unmatched == "error":
                raise DataError(_lonely(*(good or bad)[:1], good=bool(good)))
            continue
        for turn in range(max(len(good), len(bad))):
            one, other = good[turn % len(good)], bad[turn % len(bad)]
            pair = _preference(read[one], read[other])
            found.append((min(one, other), pair, f"{one} with row {other}"))
    found.sort(key=lambda entry: entry[0])
    return PairedUp([row for _, row, _ in found], [place for *_, place in found], alone)


def _is_labelled(row: Any) -> bool:
    return isinstance(row, Mapping) and all(row.get(key) is not None for key in _LabelledRow.keys)


def _prompt_of(row: _LabelledRow) -> str:
    return json.dumps([[message.to_dict() for message in row.prompt], row.tools], sort_keys=True)


def _preference(good: _LabelledRow, bad: _LabelledRow) -> dict[str, Any]:
    return {
        "prompt": [message.to_dict() for message in good.prompt],
        "chosen": [message.to_dict() for message in good.completion],
        "rejected": [message.to_dict() for message in bad.completion],
        "tools": list(good.tools),
    }


def _lonely(place: int, *, good: bool) -> str:
    kind, other = ("good", "bad") if good else ("bad", "good")
    return (
        f"row {place}: its prompt has only {kind} answers, and a pair needs a {other} one too; "
        "unmatched='drop' leaves such rows out"
    )
