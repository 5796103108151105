"""Ask the frozen model, once, how likely the answers are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Pair, RowValues, StepOrder, row_hash, size_of
from crucible_kitchen.errors import DataError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, SessionConfig, Tokenizer, TrainingClient
from crucible_kitchen.types import Datum

from ._pairs import Reference, answer_sums, interleaved

_WEIGHTS = (".safetensors", ".gguf", ".bin")
# Letters, numbers, white space and characters of several bytes, which tokenizers cut differently.
_PROBE: Final = "Foxes, 1234567890 times:\n\tdef f(x): return x**2  # \u00e9 \u4e2d\u6587 \u20ac"


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
    batch_size: int,
    gradient_accumulation: int,
    seed: int,
    order: str,
    pack_tokens: int | None,
    total_steps: int,
    tokenizer: Tokenizer,
    reference_path: str | None,
    window_rows: int | None,
    eval_reference: Reference | None = None,
    reward_mean: float = 0.0,
    rewards_seen: int = 0,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> Referenced:
    """Log probabilities of the answers under the frozen model, before they are trained.

    Where no other model is named, it is the one that is trained, as it starts, so no second one is
    loaded. Only pairs that the run will train are asked for. Where the model is on this machine,
    the answers are kept in the cache, so that a second run on it asks for none.

    Args:
        reference_path: another frozen model, loaded while it is asked.
        window_rows: rows that are read at a time, of which all are asked for. By the second window
            the model has moved, so it is loaded once more, as it was, while it is asked.
        eval_reference: what was said of the held-out pairs before the first step.
        reward_mean, rewards_seen: as they are, 0 before the first step.
    Raises:
        CrucibleError: the cache cannot be read or written.
        DataError: the other model reads text as other tokens.
    """
    sizes = [size_of(pair) for pair in train_pairs]
    steps = StepOrder(sizes, batch_size, gradient_accumulation, seed, order, pack_tokens)
    places = pairs_to_ask(steps, total_steps, window_rows)
    wanted = [train_pairs[place] for place in places]
    wanted += eval_pairs if eval_reference is None else []
    config = reference_config(session.config, reference_path)
    answers = Answers(wanted, config, training_client)
    metrics.record("reference_answers_computed", len(answers.missing))
    if answers.missing:
        with _frozen(session, config, step, tokenizer, training_client) as frozen:
            for computed in _ask(frozen, answers.missing, 2 * batch_size, training_client):
                answers.add(computed)

    def both(pair: Pair) -> tuple[float, float]:
        return answers.of(pair.chosen), answers.of(pair.rejected)

    return Referenced(
        {place: both(train_pairs[place]) for place in places},
        {place: both(pair) for place, pair in enumerate(eval_pairs)}
        if eval_reference is None
        else eval_reference,
        reward_mean,
        rewards_seen,
    )


class Answers:
    """What the frozen model says of some answers, from the cache where that has it.

    Args:
        wanted: the pairs whose answers are asked for.
        config: of the session that is asked.
    Attributes:
        missing: answers that must be computed, by their hash.
    Raises:
        CrucibleError: the cache cannot be read.
    """

    def __init__(
        self, wanted: Sequence[Pair], config: SessionConfig, client: TrainingClient
    ) -> None:
        key = _key(config, client)
        self._cache = None if key is None else RowValues("reference", key)
        self._values = {} if self._cache is None else self._cache.read()
        by_hash = {row_hash(datum): datum for datum in interleaved(wanted)}
        self.missing = {name: by_hash[name] for name in by_hash if name not in self._values}

    def add(self, computed: Mapping[str, float]) -> None:
        """Remember what was computed, in the cache too."""
        if self._cache is not None:
            self._cache.add(computed)
        self._values.update(computed)

    def of(self, datum: Datum) -> float:
        """The log probability of an answer, in nats."""
        return self._values[row_hash(datum)]


def pairs_to_ask(steps: StepOrder, total_steps: int, window_rows: int | None) -> Sequence[int]:
    """Places of the pairs that the steps of a run will meet, in order; of a window, of all."""
    if window_rows is not None:
        return range(len(steps.sizes))
    met: set[int] = set()
    for epoch, first in enumerate(range(0, total_steps, len(steps))):
        met.update(*steps.epoch(epoch)[: total_steps - first])
        if len(met) == len(steps.sizes):
            break
    return sorted(met)


def reference_config(own: SessionConfig, reference_path: str | None) -> SessionConfig:
    """The session that is asked: the run's own, or one on another model, whose update is 0."""
    if reference_path is None:
        return own
    return SessionConfig(
        model=reference_path, lora_rank=1, dtype=own.dtype, seed=own.seed, fsdp=own.fsdp
    )


@contextmanager
def _frozen(
    session: Session,
    config: SessionConfig,
    step: int,
    tokenizer: Tokenizer,
    client: TrainingClient,
) -> Iterator[Session]:
    """The session that is asked; another one than the run's is closed behind it."""
    if config is session.config and step == 0:
        yield session
        return
    other = client.start_session(config)
    try:
        _check_tokens(tokenizer, client.get_tokenizer(other), config.model)
        yield other
    finally:
        client.close_session(other)


def _check_tokens(own: Tokenizer, other: Tokenizer, model: str) -> None:
    """Refuse a reference whose tokens are not those of the model that is trained.

    Raises:
        DataError: they read a text differently.
    """
    if own.encode(_PROBE) != other.encode(_PROBE):
        raise DataError(
            f"reference_logprobs: reference_model {model!r} must read text as the same tokens as "
            "model, got others; log probabilities of tokens can be compared only then"
        )


def _ask(
    session: Session, datums: Mapping[str, Datum], size: int, client: TrainingClient
) -> Iterator[dict[str, float]]:
    """Log probabilities of answers by name, some at a time."""
    names = list(datums)
    chunks = [names[start : start + size] for start in range(0, len(names), size)]
    futures = [client.forward(session, [datums[name] for name in chunk]) for chunk in chunks]
    for chunk, future in zip(chunks, futures, strict=True):
        sums = answer_sums([datums[name] for name in chunk], future.result())
        yield dict(zip(chunk, sums.tolist(), strict=True))


def _key(config: SessionConfig, client: TrainingClient) -> str | None:
    """What the log probabilities of a row depend on besides the row; None, if that is not known.

    The row's tokens hold the chat template. What a session starts from is told by its files' sizes
    and times, since reading them all would take longer than many a reference pass; a model that is
    somewhere else may change without its name.
    """
    model = _files(Path(config.model))
    start = config.checkpoint_path
    adapter = [] if start is None else _files(Path(start))
    if model is None or adapter is None:
        return None
    kind = type(client)
    return repr((kind.__module__, kind.__qualname__, config.dtype, model, adapter))


def _files(path: Path) -> list[tuple[str, int, int]] | None:
    """Where weights are, and the size and time of each file; None where there are none."""
    files: Iterable[Path] = [path] if path.is_file() else sorted(path.rglob("*"))
    stats = [
        (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
        if file.suffix in (*_WEIGHTS, ".json") and file.is_file()
    ]
    if path.is_file():
        return stats or [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)]
    return stats if any(name.endswith(_WEIGHTS) for name, *_ in stats) else None
