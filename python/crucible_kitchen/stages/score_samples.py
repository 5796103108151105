"""Let the reward model score a few held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen.data import Pair
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient

from ._letters import letter_logprobs, letter_scores
from ._pairs import interleaved


@stage(writes="scores")
def score_samples(
    session: Session,
    eval_pairs: Sequence[Pair],
    samples: int,
    comparator: bool,
    *,
    training_client: TrainingClient,
) -> list[float]:
    """The scores of the first held-out pairs, chosen and rejected in turn.

    Args:
        samples: how many pairs.
        comparator: a difference of scores is the log odds of the better answer.
    """
    if comparator and samples and eval_pairs:
        said = letter_logprobs(eval_pairs[:samples], samples, session, training_client)
        return [float(score) for score in letter_scores(said)]
    datums = interleaved(eval_pairs[:samples])
    return training_client.score(session, datums).result() if datums else []
