"""From datums to passes: sequences as one tree, and the positions whose targets count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crucible_kitchen.adapters.local.packed import Packed, groups
from crucible_kitchen.errors import DataError
from crucible_kitchen.types import TOKEN_INPUTS, Datum

# Tokens of a pass on a processor, by the model's dtype. Longer ones are faster by a tenth, and what
# they keep for their backward grows with them: half as much a token in bfloat16, where the weights
# leave more room besides.
ENOUGH: Final[Mapping[torch.dtype, int]] = {torch.float32: 512, torch.bfloat16: 2048}
# Shorter passes may compute this share of the tokens again, of beginnings that sequences share...
_AGAIN = 1 / 32
# ... and must be so full on average: one of 4 tokens takes as long as 40 more in another pass do.
_FULL = 3 / 4


@dataclass(frozen=True)
class Example:
    """One datum, read and checked.

    Args:
        tokens: T token ids.
        inputs: the loss inputs by name, [T] each; weights of 1 where the datum has none.
        rows: int64 [n], the positions to compute.
    """

    tokens: list[int]
    inputs: dict[str, npt.NDArray[np.generic]]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pass:
    """Examples that go through the model together.

    Args:
        examples: in the batch's order.
        packed: their tokens.
        rows: int64 [n], where the positions to compute are among the packed tokens; a shared one
            is there once for each example.
        inputs: the loss inputs at those positions, [n] each.
    """

    examples: Sequence[Example]
    packed: Packed
    rows: Tensor
    inputs: dict[str, Tensor]

    def per_example(self, values: Tensor) -> list[Tensor]:
        """Values at `rows` [n], as one tensor [T] per example that is 0 elsewhere."""
        parts = torch.split(values, [len(example.rows) for example in self.examples])
        return [_spread(part, e) for part, e in zip(parts, self.examples, strict=True)]


def read(datums: Sequence[Datum], *, vocabulary: int, everywhere: bool = False) -> list[Example]:
    """Datums as examples.

    Args:
        vocabulary: how many token ids the model has.
        everywhere: compute positions of weight 0 too.

    Raises:
        DataError: a token id that the model does not have, or an image; named by datum.
    """
    examples = []
    for index, datum in enumerate(datums):
        try:
            tokens = datum.model_input.to_ints()
        except ValueError as error:
            raise DataError(f"forward_backward: datums[{index}]: {error}") from error
        given = datum.loss_fn_inputs
        inputs = {name: given[name].numpy() for name in TOKEN_INPUTS if name in given}
        weights = inputs.setdefault("weights", np.ones(len(tokens), np.float32))
        rows = np.arange(len(tokens)) if everywhere else np.flatnonzero(weights)
        for name, ids in (("token", np.asarray(tokens)), ("target", inputs["target_tokens"][rows])):
            if ids.size and ids.max() >= vocabulary:
                raise DataError(
                    f"forward_backward: datums[{index}]: every {name} must be below the model's "
                    f"vocabulary of {vocabulary}, got {ids.max()}"
                )
        examples.append(Example(tokens, inputs, rows))
    return examples


def passes(
    examples: Sequence[Example], *, tokens_per_pass: int, device: torch.device, enough: int | None
) -> Iterator[Pass]:
    """Cut a batch, in order, into passes of at most so many tokens, or of one longer example.

    Args:
        enough: cut them further, to so many tokens, where that costs little; None leaves them.
    """
    for group in _groups(examples, tokens_per_pass):
        whole = together(group, device)
        yield from [whole] if enough is None else _shorter(whole, enough, device)


def _shorter(whole: Pass, enough: int, device: torch.device) -> list[Pass]:
    """The same in shorter passes, unless these are small, or share too little."""
    parts = [together(part, device) for part in _groups(whole.examples, enough)]
    once, tokens = len(whole.packed.tokens), sum(len(part.packed.tokens) for part in parts)
    worth = once >= _FULL * enough * len(parts) and tokens <= (1 + _AGAIN) * once
    return parts if worth else [whole]


def _groups(examples: Sequence[Example], most: int) -> Iterator[list[Example]]:
    return groups(examples, [len(example.tokens) for example in examples], most)


def sequences(datums: Sequence[Datum], *, vocabulary: int) -> list[list[int]]:
    """The tokens of datums that are read and not predicted.

    Raises:
        DataError: a token id that the model does not have, or an image; named by datum.
    """
    read = []
    for index, datum in enumerate(datums):
        try:
            tokens = datum.model_input.to_ints()
        except ValueError as error:
            raise DataError(f"score: datums[{index}]: {error}") from error
        if max(tokens) >= vocabulary:
            raise DataError(
                f"score: datums[{index}]: every token must be below the model's vocabulary of "
                f"{vocabulary}, got {max(tokens)}"
            )
        read.append(tokens)
    return read


def together(examples: Sequence[Example], device: torch.device) -> Pass:
    """Examples as one pass."""
    packed = Packed.of([example.tokens for example in examples], device)
    rows = [places[e.rows] for places, e in zip(packed.places, examples, strict=True)]
    shared = set.intersection(*(set(example.inputs) for example in examples))
    return Pass(
        examples=examples,
        packed=packed,
        rows=torch.from_numpy(np.concatenate(rows)).to(device),
        inputs={
            name: torch.from_numpy(np.concatenate([e.inputs[name][e.rows] for e in examples])).to(
                device
            )
            for name in TOKEN_INPUTS
            if name in shared
        },
    )


def counts(examples: Sequence[Example]) -> dict[str, float]:
    """How many tokens the examples have, and at how many the loss was taken."""
    trained = (int((example.inputs["weights"] != 0).sum()) for example in examples)
    tokens = sum(len(example.tokens) for example in examples)
    return {"tokens:sum": tokens, "trained_tokens:sum": sum(trained)}


def _spread(values: Tensor, example: Example) -> Tensor:
    length = len(example.tokens)
    if len(values) == length:
        return values
    rows = torch.from_numpy(example.rows).to(values.device)
    return values.new_zeros(length).index_put((rows,), values)
