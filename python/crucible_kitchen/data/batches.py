"""The order in which rows are learnt, and weights that make a batch's loss a mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from crucible_kitchen.errors import DataError
from crucible_kitchen.types import Datum, TensorData

# Length-grouped order sorts this many batches together: enough for batches of nearly equal length,
# few enough that which rows meet still changes from epoch to epoch.
_POOL: Final = 50


class BatchOrder:
    """Batches of row indices: every row once an epoch, the last batch smaller where it must be.

    The order of an epoch depends on `(seed, epoch)` and the arguments, on nothing that ran before,
    and not on numpy's version: it sorts raw Philox output. Iterating gives one epoch, and the next
    iteration the next epoch; where it stands can be saved at any batch.

    Args:
        n: how many rows there are.
        batch_size: rows of a batch.
        seed: in [0, 2^64).
        shuffle: False keeps the rows in order, in every epoch.
        lengths: tokens of each row. Given, rows of like length share a batch, so that batches cost
            alike; the order of batches stays random.

    Raises:
        ValueError: a number out of range, or `lengths` of another length than `n`.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
        lengths: Sequence[int] | None = None,
    ) -> None:
        for argument, value, least in (
            ("n", n, 1),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"BatchOrder: {argument} must be at least {least}, got {value}")
        if seed >= 2**64:
            raise ValueError(f"BatchOrder: seed must be below 2^64, got {seed}")
        if lengths is not None and len(lengths) != n:
            raise ValueError(f"BatchOrder: lengths must have n = {n} entries, got {len(lengths)}")
        self._n, self._batch_size, self._seed, self._shuffle = n, batch_size, seed, shuffle
        self._lengths = None if lengths is None else np.asarray(lengths)
        self._epoch = self._position = 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-self._n // self._batch_size)

    @property
    def size(self) -> int:
        """Rows of an epoch."""
        return self._n

    def epoch(self, epoch: int) -> list[list[int]]:
        """All batches of one epoch; it changes nothing."""
        random = np.random.Philox(key=np.array([self._seed, epoch], dtype=np.uint64))
        order = permutation(random, self._n) if self._shuffle else np.arange(self._n)
        if self._lengths is None:
            return self._split(order)
        pool = _POOL * self._batch_size
        batches: list[list[int]] = []
        for start in range(0, self._n, pool):
            some = order[start : start + pool]
            batches += self._split(some[np.argsort(-self._lengths[some], kind="stable")])
        if not self._shuffle:
            return batches
        return [batches[i] for i in permutation(random, len(batches))]

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.epoch(self._epoch)
        # The place is moved before a batch is given away, so that a state saved while the batch is
        # in use goes on behind it.
        for position in range(self._position, len(batches)):
            self._position = position + 1
            yield batches[position]
        self._epoch, self._position = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where it stands, plain enough for JSON."""
        return {"epoch": self._epoch, "position": self._position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken.

        Raises:
            DataError: it was taken over another number of rows, batch size or seed.
        """
        wanted = self._identity()
        if {key: state.get(key) for key in wanted} != wanted:
            raise DataError(f"batch order: state must be of {wanted}, got {state}")
        self._epoch, self._position = int(state["epoch"]), int(state["position"])

    def _identity(self) -> dict[str, int]:
        return {"n": self._n, "batch_size": self._batch_size, "seed": self._seed}

    def _split(self, order: np.ndarray[Any, Any]) -> list[list[int]]:
        size = self._batch_size
        return [order[start : start + size].tolist() for start in range(0, len(order), size)]


def permutation(random: np.random.Philox, n: int) -> np.ndarray[Any, Any]:
    """Numbers below `n` in a random order, which does not depend on numpy's version."""
    return np.argsort(random.random_raw(n), kind="stable")


def normalise_weights(datums: Sequence[Datum]) -> list[Datum]:
    """The datums with their weights divided by the sum of all of them.

    A training client's gradients are those of a sum. With weights that sum to 1 over the whole
    accumulated batch that sum is the mean per trained token, however the batch is cut into pieces.

    Raises:
        DataError: the weights do not sum to a finite number above 0.
    """
    weights = [datum.loss_fn_inputs["weights"].numpy().astype(np.float64) for datum in datums]
    total = float(sum(w.sum() for w in weights))
    if not 0.0 < total < float("inf"):
        raise DataError(f"weights of a batch must sum to a finite number above 0, got {total}")
    return [
        Datum(
            datum.model_input,
            {**datum.loss_fn_inputs, "weights": TensorData((w / total).astype(np.float32))},
        )
        for datum, w in zip(datums, weights, strict=True)
    ]
