"""The batches of the whole-step benchmark, from the answers of Python's own documentation."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from crucible_kitchen.adapters.builtin import DatasetStore
from crucible_kitchen.adapters.local.tokenizer import load_tokenizer
from crucible_kitchen.data import prepare
from crucible_kitchen.types import Datum, ModelInput

DATASET = "builtin:python-docs"
BATCHES = ("dense", "ragged")
IGNORED = -100  # the label of what is not trained, in transformers


def batch(kind: str, folder: str | os.PathLike[str], *, rows: int, length: int) -> list[Datum]:
    """One batch for a model.

    Args:
        kind: ``dense``, rows of equal length with every token trained; or ``ragged``, rows as
            `sft` trains them, prompts masked.
        folder: of the model, for its tokenizer.
        rows: how many.
        length: tokens of a dense row, most tokens of a ragged one.
    """
    store = DatasetStore()
    dataset = store.get_split(store.load_dataset(DATASET), "train")
    tokenizer = load_tokenizer(os.fspath(folder), port="bench")
    some = store.to_list(store.take(store.shuffle(dataset, seed=0), 64))
    if kind == "ragged":
        return prepare(some, tokenizer, max_length=length, truncation="middle").datums[:rows]
    datums = prepare(some, tokenizer).datums
    tokens = [token for datum in datums for token in datum.model_input.to_ints()]
    while len(tokens) < rows * length + 1:
        tokens += tokens
    return [
        Datum(
            ModelInput.from_ints(tokens[row * length : (row + 1) * length]),
            {
                "target_tokens": tokens[row * length + 1 : (row + 1) * length + 1],
                "weights": [1.0] * length,
            },
        )
        for row in range(rows)
    ]


def padded(datums: Sequence[Datum]) -> dict[str, Tensor]:
    """Token ids, mask and labels for a model that shifts labels itself."""
    rows = []
    for datum in datums:
        given = datum.loss_fn_inputs
        targets, weights = given["target_tokens"].tolist(), given["weights"].tolist()
        tokens = datum.model_input.to_ints()
        labels = [t if w else IGNORED for t, w in zip(targets, weights, strict=True)]
        rows.append(([*tokens, targets[-1]], [IGNORED, *labels]))
    longest = max(len(tokens) for tokens, _ in rows)
    return {
        "input_ids": torch.tensor([t + [0] * (longest - len(t)) for t, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t, _ in rows]),
        "labels": torch.tensor([lab + [IGNORED] * (longest - len(lab)) for _, lab in rows]),
    }
