"""`Rng`: random numbers that depend on the seed and on the execution's id, and on nothing else."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import numpy as np


class Rng(np.random.Generator):
    """A numpy generator; a stage is given its own by annotating a parameter with it.

    It is Philox, keyed by the run's seed and the execution's id, so it needs no saving and does not
    depend on what ran before.

    Args:
        seed: of the run.
        path: id of the execution.
    """

    injected_as: ClassVar[str] = "rng"

    def __init__(self, seed: int, path: str) -> None:
        digest = hashlib.blake2b(f"{seed}:{path}".encode(), digest_size=16).digest()
        super().__init__(np.random.Philox(key=int.from_bytes(digest, "little")))

    def __reduce__(self) -> Any:
        # A copy goes on from the same place, which a seed and a path cannot say.
        return np.random.Generator, (self.bit_generator,)
