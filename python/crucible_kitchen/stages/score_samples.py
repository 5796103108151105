"""Let the reward model score a few held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen.data import Pair
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient

from ._pairs import interleaved


@stage(writes="scores")
def score_samples(
    session: Session,
    eval_pairs: Sequence[Pair],
    samples: int,
    *,
    training_client: TrainingClient,
) -> list[float]:
    """The scores of the first held-out pairs, chosen and rejected in turn.

    Args:
        samples: how many pairs.
    """
    datums = interleaved(eval_pairs[:samples])
    return training_client.score(session, datums).result() if datums else []
