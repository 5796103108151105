"""An `Evaluator` that asks a model: its loss on held-out rows, and its answers to their prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from crucible_kitchen import ports
from crucible_kitchen.adapters.local.completer import Completer
from crucible_kitchen.adapters.local.corpus_metrics import CORPUS_METRICS
from crucible_kitchen.adapters.local.judge import INSTRUCTION, check_instruction, grades
from crucible_kitchen.adapters.local.text_metrics import TEXT_METRICS
from crucible_kitchen.adapters.local.training_client import TrainingClient
from crucible_kitchen.data import build_datums, to_messages
from crucible_kitchen.errors import ConfigError, CrucibleError, DataError, did_you_mean
from crucible_kitchen.ports import Row, SamplingClient, Session, Tokenizer
from crucible_kitchen.types import Datum, Message

_LOSSES: Final = ("loss", "perplexity")
_KNOWN: Final = (*_LOSSES, "accuracy", *TEXT_METRICS, *CORPUS_METRICS, "judge")
_REFERENCES: Final = ("label", "reference", "answer")

Predict = Callable[[Sequence[Row]], list[Any]]


class Evaluator(ports.Evaluator):
    """Measures a session, a `Completer`, or a function from a row to a prediction.

    ``loss`` is the mean over the rows' trained tokens, in nats, and ``perplexity`` its exponential;
    both need a session of `training_client`, or of `sampling_client` with its tokenizer. The others
    are means over rows. ``accuracy`` counts predictions equal to the row's ``label``;
    ``exact_match``, ``contains``, ``regex``, ``numeric`` and ``f1`` compare an answer's text with
    the row's ``label``, ``reference`` or ``answer``, or else its last assistant turn (for
    ``regex``, with its ``pattern`` if it has one). So do ``rouge1``, ``rouge2``, ``rougeL``,
    ``bleu`` and ``chrf`` of all answers, by libraries (extra ``evaluate``), and ``judge``, the mean
    grade from 0 to 1 that another model gives.

    Args:
        training_client: whose sessions are measured; a local one also answers with their weights.
        sampling_client: whose sessions are measured.
        tokenizer: of `sampling_client`'s models, if it has no ``get_tokenizer`` of its own.
        batch_size: rows at a time.
        train_on: which tokens of a row count for the loss, as in training.
        max_length: most tokens of a row; a longer one is an error.
        max_tokens: most tokens of an answer, which is drawn at temperature 0.
        judge: grades answers for the metric ``judge``.
        judge_instruction: what it is told, with ``{question}``, ``{reference}``, ``{answer}``; it
            has to end with ``Rating: N``, N from 1 to 10.
    """

    def __init__(
        self,
        *,
        training_client: ports.TrainingClient | None = None,
        sampling_client: SamplingClient | None = None,
        tokenizer: Tokenizer | None = None,
        batch_size: int = 8,
        train_on: str = "last_assistant",
        max_length: int | None = None,
        max_tokens: int = 256,
        judge: ports.Completer | None = None,
        judge_instruction: str = INSTRUCTION,
    ) -> None:
        if batch_size < 1 or max_tokens < 1:
            raise ConfigError(
                "evaluator: batch_size and max_tokens must be at least 1, "
                f"got {batch_size} and {max_tokens}"
            )
        self._training_client, self._sampling_client = training_client, sampling_client
        self._tokenizer = tokenizer
        self._batch_size, self._max_tokens = batch_size, max_tokens
        self._judge, self._instruction = judge, check_instruction(judge_instruction)
        self._rendering = {"train_on": train_on, "max_length": max_length}

    def evaluate(
        self,
        model: Session | ports.Completer | Callable[[Mapping[str, Any]], Any],
        dataset: Iterable[Mapping[str, Any]],
        metrics: Sequence[str] = ("loss",),
    ) -> dict[str, float]:
        """Compute metrics; see `ports.Evaluator`."""
        for metric in metrics:
            if metric not in _KNOWN:
                advice = did_you_mean(metric, _KNOWN)
                raise ConfigError(f"evaluator: no metric {metric!r}; {advice}")
        if "judge" in metrics and self._judge is None:
            raise ConfigError("evaluator: the metric judge needs judge=, a Completer that grades")
        rows = [dict(row) for row in dataset]
        if not rows:
            raise DataError("evaluator: dataset must hold at least one row, got none")
        results: dict[str, float] = {}
        if set(metrics) & set(_LOSSES):
            loss = self._loss(model, rows)
            results.update(loss=loss, perplexity=math.exp(loss) if loss < 700 else math.inf)
        asked = [metric for metric in metrics if metric not in _LOSSES]
        if asked:
            references = {metric: _references(rows, metric) for metric in asked}
            predictions = self._predictions(model, rows)
            for metric in asked:
                results[metric] = self._score(metric, rows, predictions, references[metric])
        return {**{name: results[name] for name in metrics}, "sample_count": float(len(rows))}

    def _score(
        self, metric: str, rows: Sequence[Row], predictions: Sequence[Any], references: list[Any]
    ) -> float:
        """One metric over all rows."""
        if metric == "accuracy":
            pairs = zip(predictions, references, strict=True)
            return _mean([float(prediction == reference) for prediction, reference in pairs])
        answers, right = list(map(str, predictions)), list(map(str, references))
        if metric in CORPUS_METRICS:
            return CORPUS_METRICS[metric](answers, right)
        if metric == "judge":
            assert self._judge is not None
            questions = [_prompt(row, index) for index, row in enumerate(rows)]
            return _mean(grades(self._judge, self._instruction, questions, right, answers))
        return _mean(list(map(TEXT_METRICS[metric], answers, right)))

    def _loss(self, model: Any, rows: Sequence[Row]) -> float:
        """Mean loss over all trained tokens, in nats."""
        if not isinstance(model, Session):
            raise ConfigError(f"evaluator: loss needs a session to measure, got {model!r:.80}")
        datums = build_datums(rows, self._tokenizer_of(model), **self._rendering)  # type: ignore[arg-type]
        total = weights = 0.0
        for start in range(0, len(datums), self._batch_size):
            batch = datums[start : start + self._batch_size]
            total += self._batch_loss(model, batch)
            weights += sum(float(_weights(datum).sum()) for datum in batch)
        return total / weights

    def _batch_loss(self, session: Session, batch: Sequence[Datum]) -> float:
        """Sum over a batch of weight times loss."""
        if self._training_client is not None:
            result = self._training_client.forward(session, batch).result()
            return float(result.metrics["loss:sum"])
        assert self._sampling_client is not None
        waiting = []
        for datum in batch:
            targets = datum.loss_fn_inputs["target_tokens"].tolist()
            tokens = [datum.model_input.to_ints()[0], *targets]
            waiting.append(self._sampling_client.compute_logprobs(session, tokens))
        return -math.fsum(
            float(np.dot(_weights(datum), np.asarray(future.result()[1:], dtype=np.float64)))
            for datum, future in zip(batch, waiting, strict=True)
        )

    def _tokenizer_of(self, session: Session) -> Tokenizer:
        if self._tokenizer is not None:
            return self._tokenizer
        if self._training_client is not None:
            return self._training_client.get_tokenizer(session)
        get_tokenizer = getattr(self._sampling_client, "get_tokenizer", None)
        if get_tokenizer is None:
            raise ConfigError(
                "evaluator: a session needs training_client=, or sampling_client= and the "
                "tokenizer= of its model"
            )
        tokenizer: Tokenizer = get_tokenizer(session)
        return tokenizer

    def _predictions(self, model: Any, rows: Sequence[Row]) -> list[Any]:
        if isinstance(model, Session):
            if not isinstance(self._training_client, TrainingClient):
                raise ConfigError(
                    "evaluator: answers need a Completer, a function, or a session of the local "
                    f"training client, got {model!r}"
                )
            model = Completer(training_client=self._training_client, session=model)
        if isinstance(model, ports.Completer):
            prompts = [_prompt(row, index) for index, row in enumerate(rows)]
            answers = model.complete_batch(prompts, max_tokens=self._max_tokens, temperature=0.0)
            return [answer.text for answer in answers]
        if not callable(model):
            raise ConfigError(
                f"evaluator: model must be a session, a Completer or a function, got {model!r:.80}"
            )
        return [model(row) for row in rows]


def _weights(datum: Datum) -> Any:
    return datum.loss_fn_inputs["weights"].numpy().astype(np.float64)


def _prompt(row: Row, index: int) -> list[Message]:
    """A row's conversation without the answer it ends with."""
    if isinstance(row.get("prompt"), str) and "completion" not in row:
        return [Message("user", row["prompt"])]
    messages = to_messages(row, index)
    if messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    if not messages:
        raise DataError(f"evaluator: row {index} must have a prompt, got only an answer")
    return messages


def _references(rows: Sequence[Row], metric: str) -> list[Any]:
    """What each row says is right.

    Raises:
        DataError: a row that does not say it, named by its index.
    """
    keys: tuple[str, ...] = _REFERENCES
    if metric == "regex":
        keys = ("pattern", *_REFERENCES)
    elif metric == "accuracy":
        keys = ("label",)
    found = []
    for index, row in enumerate(rows):
        reference = next((row[key] for key in keys if row.get(key) is not None), None)
        if reference is None and metric != "accuracy":
            reference = _last_answer(row)
        if reference is None:
            raise DataError(
                f"evaluator: row {index} must have {' or '.join(keys)} for {metric}, "
                f"got {sorted(map(str, row))}"
            )
        found.append(reference)
    return found


def _last_answer(row: Row) -> str | None:
    try:
        last = to_messages(row)[-1]
    except CrucibleError:
        return None
    return last.content if last.role == "assistant" else None


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)
