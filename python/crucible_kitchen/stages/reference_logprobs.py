"""Ask the frozen model, once, how likely the answers are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Pair, RowValues, StepOrder, row_hash, size_of
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum

from ._pairs import Reference, answer_sums, interleaved

_WEIGHTS = (".safetensors", ".gguf", ".bin")


class Referenced(NamedTuple):
    """What the frozen model says, and the rewards so far.

    Args:
        train_reference: its log probabilities of the pairs that the run trains.
        eval_reference: of the held-out pairs.
        reward_mean: mean reward of all answers trained so far, 0: a policy that is its own
            reference earns nothing.
        rewards_seen: how many answers that is the mean of.
    """

    train_reference: Reference
    eval_reference: Reference
    reward_mean: float
    rewards_seen: int


@stage
def reference_logprobs(
    session: Session,
    step: int,
    train_pairs: Sequence[Pair],
    eval_pairs: Sequence[Pair],
    model_path: str,
    batch_size: int,
    gradient_accumulation: int,
    seed: int,
    order: str,
    pack_tokens: int | None,
    total_steps: int,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> Referenced:
    """Log probabilities of the answers before the first step, when the model is its own reference.

    The update that is trained starts as the identity (its `lora_b` is 0), so no second model is
    needed. Only pairs that the run will train are asked for. Where the model is on this machine,
    the answers are kept in the cache, so that a second run on it asks for none.

    Raises:
        CrucibleError: a step was taken already, or the cache cannot be read or written.
    """
    if step != 0:
        raise CrucibleError(f"reference_logprobs: step must be 0, got {step}: the model has moved")
    sizes = [size_of(pair) for pair in train_pairs]
    steps = StepOrder(sizes, batch_size, gradient_accumulation, seed, order, pack_tokens)
    places = _places(steps, total_steps)
    wanted = [train_pairs[place] for place in places] + list(eval_pairs)
    by_hash = {row_hash(datum): datum for datum in interleaved(wanted)}
    key = _key(model_path, session, training_client)
    cache = None if key is None else RowValues("reference", key)
    values = {} if cache is None else cache.read()
    missing = [name for name in by_hash if name not in values]
    metrics.record("reference_answers_computed", len(missing))
    size = 2 * batch_size
    chunks = [missing[start : start + size] for start in range(0, len(missing), size)]
    asked = [
        (chunk, training_client.forward(session, [by_hash[name] for name in chunk]))
        for chunk in chunks
    ]
    for chunk, future in asked:
        sums = answer_sums([by_hash[name] for name in chunk], future.result())
        computed = dict(zip(chunk, sums.tolist(), strict=True))
        if cache is not None:
            cache.add(computed)
        values.update(computed)

    def both(pair: Pair) -> tuple[float, float]:
        return _value(values, pair.chosen), _value(values, pair.rejected)

    return Referenced(
        {place: both(train_pairs[place]) for place in places},
        {place: both(pair) for place, pair in enumerate(eval_pairs)},
        0.0,
        0,
    )


def _value(values: dict[str, float], datum: Datum) -> float:
    return values[row_hash(datum)]


def _places(steps: StepOrder, total_steps: int) -> list[int]:
    """The pairs that the steps of a run will meet, in order."""
    met: set[int] = set()
    for epoch, first in enumerate(range(0, total_steps, len(steps))):
        met.update(*steps.epoch(epoch)[: total_steps - first])
        if len(met) == len(steps.sizes):
            break
    return sorted(met)


def _key(model_path: str, session: Session, client: TrainingClient) -> str | None:
    """What the log probabilities of a row depend on besides the row; None, if that is not known.

    The weights are told by their files' sizes and times, since reading them all would take longer
    than many a reference pass. A model that is somewhere else may change without its name.
    """
    path = Path(model_path)
    if not path.exists():
        return None
    files: Iterable[Path] = [path] if path.is_file() else sorted(path.rglob("*"))
    stats = [
        (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if file.suffix in (*_WEIGHTS, ".json") and file.is_file()
    ]
    if not any(name.endswith(_WEIGHTS) for name, *_ in stats) and path.is_dir():
        return None
    kind = type(client)
    about = (kind.__module__, kind.__qualname__, str(path.resolve()), session.config.dtype, stats)
    return repr(about)
