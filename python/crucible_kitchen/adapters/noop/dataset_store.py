"""A data set that needs no file: sums, which have one right answer each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from crucible_kitchen.adapters.rows import RowsDatasetStore, check_options, no_such_split
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.ports import Row

_SPLITS: Final = ("train", "validation", "test")
_KINDS: Final = ("sft", "preference")


class DatasetStore(RowsDatasetStore):
    """Rows made by arithmetic, the same ones every time, for any name.

    Args:
        size: rows in ``train``; ``validation`` and ``test`` have a quarter of that, at least one.
        kind: ``sft`` for rows of ``prompt`` and ``completion``, ``preference`` for rows of
            ``prompt``, ``chosen`` and ``rejected``; each a list of messages. By default it is
            ``preference`` for data sets whose name ends in ``preferences``, and else ``sft``.

    Both are also options of `load_dataset`. No row is in two splits.
    """

    def __init__(self, size: int = 64, kind: str | None = None) -> None:
        self._size, self._kind = _checked(size, kind)

    def _read(self, name: str, split: str, options: Mapping[str, Any]) -> Sequence[Row]:
        check_options(options, ("size", "kind"))
        size, kind = _checked(options.get("size", self._size), options.get("kind", self._kind))
        if kind is None:
            kind = "preference" if name.endswith("preferences") else "sft"
        if split not in _SPLITS:
            raise no_such_split(name, split, _SPLITS)
        held_out = max(size // 4, 1)
        first = {"train": 0, "validation": size, "test": size + held_out}[split]
        count = size if split == "train" else held_out
        return [_row(index, kind) for index in range(first, first + count)]


def _checked(size: int, kind: str | None) -> tuple[int, str | None]:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"dataset_store: size must be a whole number above 0, got {size!r}")
    if kind is not None and kind not in _KINDS:
        raise ConfigError(f"dataset_store: kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    return size, kind


def _row(index: int, kind: str) -> Row:
    # Left operands never repeat, so neither do rows.
    left, right = index, (7 * index) % 10
    right_answer, wrong_answer = str(left + right), str(left + right + 1 + index % 3)
    prompt = [{"role": "user", "content": f"What is {left} plus {right}?"}]
    if kind == "sft":
        return {"prompt": prompt, "completion": _answer(right_answer)}
    return {"prompt": prompt, "chosen": _answer(right_answer), "rejected": _answer(wrong_answer)}


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
