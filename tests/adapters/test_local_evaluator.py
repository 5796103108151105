"""The local evaluator on a tiny random model: numbers that can be computed another way."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.adapters import noop
from crucible_kitchen.adapters.local import Evaluator, SamplingClient
from crucible_kitchen.adapters.local.text_metrics import TEXT_METRICS
from crucible_kitchen.data import build_datums
from crucible_kitchen.errors import ConfigError, DataError, PortError
from crucible_kitchen.testing import EvaluatorContract
from crucible_kitchen.types import Completion

ROWS = [
    {"prompt": "Count the items.", "completion": "one two three"},
    {"prompt": "Cook.", "completion": "A"},
    {"prompt": "Read the recipe.", "completion": "The cook reads the recipe and returns."},
]


class TestEvaluator(EvaluatorContract):
    @pytest.fixture
    def adapter(self) -> Evaluator:
        return Evaluator()


class TestLossOfASession(EvaluatorContract):
    rows = ROWS
    metrics = ("loss", "perplexity")
    expected = None

    @pytest.fixture
    def adapter(self, local_client, start, monkeypatch):
        session = start()
        monkeypatch.setattr(type(self), "model", session)
        return Evaluator(training_client=local_client)


def test_the_loss_is_the_mean_over_all_tokens_however_they_are_batched(local_client, start):
    session = start()
    datums = build_datums(ROWS, local_client.get_tokenizer(session))
    whole = local_client.forward(session, datums).result().loss
    for batch_size in (1, 2, 8):
        evaluator = Evaluator(training_client=local_client, batch_size=batch_size)
        results = evaluator.evaluate(session, ROWS, ["perplexity", "loss"])
        assert results["loss"] == pytest.approx(whole, rel=1e-5)
        assert results["perplexity"] == pytest.approx(math.exp(whole), rel=1e-4)
        assert list(results) == ["perplexity", "loss", "sample_count"]


def test_a_sampling_session_has_the_same_loss(local_client, start, tiny_folder):
    want = Evaluator(training_client=local_client).evaluate(start(), ROWS)
    sampler = SamplingClient(device="cpu")
    session = sampler.start_session({"model": tiny_folder, "dtype": "float32"})
    got = Evaluator(sampling_client=sampler).evaluate(session, ROWS)
    sampler.close()
    assert got == pytest.approx(want, rel=1e-4)


def test_a_port_without_a_tokenizer_needs_one(monkeypatch):
    sampler = noop.SamplingClient()
    session = sampler.start_session({"model": "any"})
    monkeypatch.delattr(noop.SamplingClient, "get_tokenizer", raising=False)
    with pytest.raises(ConfigError, match="tokenizer="):
        Evaluator(sampling_client=sampler).evaluate(session, ROWS)
    given = Evaluator(sampling_client=sampler, tokenizer=noop.ByteTokenizer())
    assert given.evaluate(session, ROWS)["loss"] > 0


def test_answers_of_a_session_are_drawn_with_its_weights(local_client, start):
    evaluator = Evaluator(training_client=local_client, max_tokens=4)
    session = start()
    row = {"prompt": "Cook."}
    results = [
        evaluator.evaluate(session, [{**row, "answer": answer}], ["exact_match"])["exact_match"]
        for answer in ("certainly not this", _said(local_client, session))
    ]
    assert results == [0.0, 1.0]


def _said(client, session):
    from crucible_kitchen.adapters.local import Completer

    completer = Completer(training_client=client, session=session)
    messages = [{"role": "user", "content": "Cook."}]
    return completer.complete(messages, max_tokens=4, temperature=0.0).text


def test_answers_of_a_completer_are_compared_with_the_last_turn():
    completer = noop.Completer(lambda turns: "one two" if "items" in turns[-1].content else "A")
    results = Evaluator().evaluate(completer, ROWS, ["exact_match", "contains", "f1"])
    assert results["exact_match"] == results["contains"] == pytest.approx(1 / 3)
    # Of one-two-three, two words; of "A", an article, none is left on either side.
    assert results["f1"] == pytest.approx((0.8 + 1.0 + 0.0) / 3)
    assert results["sample_count"] == 3.0


@pytest.mark.parametrize(
    ("metric", "answer", "reference", "score"),
    [
        ("exact_match", " yes\n", "yes", 1),
        ("exact_match", "Yes", "yes", 0),
        ("contains", "It is PARIS.", "paris", 1),
        ("contains", "It is Rome.", "paris", 0),
        ("regex", "id: 123", r"\d{3}$", 1),
        ("regex", "id: 12", r"\d{3}$", 0),
        ("numeric", "So 3 + 4 = 1,007.0", "#### 1007", 1),
        ("numeric", "about -2e3", "-2000", 1),
        ("numeric", "no number", "4", 0),
        ("numeric", "4.1", "4", 0),
        ("f1", "The cat sat", "a cat", 2 / 3),
        ("f1", "cat cat", "cat", 2 / 3),
        ("f1", "dog", "cat", 0),
    ],
)
def test_metrics_of_text(metric, answer, reference, score):
    assert TEXT_METRICS[metric](answer, reference) == pytest.approx(score)


@given(st.text(), st.text())
def test_scores_stay_between_none_and_all(answer, reference):
    for name in ("exact_match", "contains", "f1"):
        assert 0.0 <= TEXT_METRICS[name](answer, reference) <= 1.0
        assert TEXT_METRICS[name](reference, reference) == 1.0


def test_a_pattern_goes_before_a_label():
    row = {"label": "never", "pattern": "^y"}
    assert Evaluator().evaluate(lambda _: "yes", [row], ["regex"])["regex"] == 1.0


@pytest.mark.parametrize(
    ("metric", "row", "said"),
    [
        ("accuracy", {"answer": "x"}, "row 0 must have label"),
        ("exact_match", {"question": "x"}, "row 0 must have label or reference or answer"),
        ("regex", {"pattern": "("}, "must be a regular expression"),
        ("numeric", {"label": "none"}, "must hold a number"),
    ],
)
def test_a_row_that_says_too_little_is_named(metric, row, said):
    with pytest.raises(DataError, match=said):
        Evaluator().evaluate(lambda _: "x", [row], [metric])


def test_what_cannot_be_measured_is_refused(local_client, start):
    with pytest.raises(ConfigError, match="loss needs a session"):
        Evaluator().evaluate(lambda _: "x", ROWS)
    with pytest.raises(ConfigError, match="answers need a Completer"):
        Evaluator().evaluate(start(), ROWS, ["f1"])
    with pytest.raises(ConfigError, match="must be a session, a Completer or a function"):
        Evaluator().evaluate("model", ROWS, ["f1"])
    with pytest.raises(ConfigError, match="training_client="):
        Evaluator().evaluate(start(), ROWS)
    with pytest.raises(ConfigError, match="did you mean 'perplexity'"):
        Evaluator().evaluate(None, ROWS, ["perplexty"])
    with pytest.raises(ConfigError, match="batch_size"):
        Evaluator(batch_size=0)


def test_rouge_is_rouge_score_s_mean_and_bleu_sacrebleu_s_of_the_corpus():
    pytest.importorskip("rouge_score", reason="pip install 'crucible-kitchen[evaluate]'")
    pytest.importorskip("sacrebleu", reason="pip install 'crucible-kitchen[evaluate]'")
    rows = [
        {"prompt": "a", "reference": "the cat sat on the mat", "said": "the cat sat on the mat"},
        {"prompt": "b", "reference": "dogs run in the park today", "said": "dogs run in a park"},
    ]
    metrics = ["rouge1", "rouge2", "rougeL", "bleu", "chrf"]
    results = Evaluator().evaluate(lambda row: row["said"], rows, metrics)
    # By hand: 4 of 5 and 4 of 6 words are common, 2 of 4 and 2 of 5 pairs; the rest is in order.
    second = {"rouge1": 2 * 4 / (5 + 6), "rouge2": 2 * 2 / (4 + 5), "rougeL": 2 * 4 / (5 + 6)}
    for metric, value in second.items():
        assert results[metric] == pytest.approx((1 + value) / 2)
    same = [{**row, "said": row["reference"]} for row in rows]
    best = Evaluator().evaluate(lambda row: row["said"], same, metrics)
    assert all(best[metric] == pytest.approx(1.0) for metric in metrics)
    assert 0.0 < results["bleu"] < results["chrf"] < 1.0


def _judge(*ratings: str) -> noop.Completer:
    said = iter(ratings)
    heard: list[str] = []

    class Judge(noop.Completer):
        def complete(self, messages, **options):
            heard.append(messages[-1].content)
            return Completion(next(said), "stop")

    judge = Judge()
    judge.heard = heard
    return judge


def test_a_judge_sees_question_reference_and_answer_and_its_mean_counts():
    judge = _judge("Right.\nRating: 10", "Rating: 3 is too low.\nRating: [[4]]", "rating: 1")
    results = Evaluator(judge=judge).evaluate(lambda row: "so be it", ROWS, ["judge"])
    assert results == {"judge": pytest.approx((1 + 3 / 9 + 0) / 3), "sample_count": 3.0}
    assert [text.count("so be it") for text in judge.heard] == [1, 1, 1]
    assert "Count the items." in judge.heard[0]
    assert "one two three" in judge.heard[0]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("I cannot say.", r'must end with "Rating: N", got .I cannot say.* for row 0'),
        ("Rating: 11", r"must rate from 1 to 10, got 11 for row 0"),
        ("Rating: 0", r"must rate from 1 to 10, got 0 for row 0"),
    ],
)
def test_a_judge_that_gives_no_grade_is_an_error(reply, said):
    with pytest.raises(DataError, match=said):
        Evaluator(judge=_judge(reply)).evaluate(lambda row: "x", ROWS[:1], ["judge"])


def test_a_judge_that_is_not_there_and_an_instruction_that_cannot_be_filled():
    with pytest.raises(ConfigError, match="the metric judge needs judge="):
        Evaluator().evaluate(lambda row: "x", ROWS, ["judge"])
    with pytest.raises(ConfigError, match=r"must hold \{answer\}"):
        Evaluator(judge_instruction="Rate it.")
    with pytest.raises(ConfigError, match="question, reference and answer"):
        Evaluator(judge_instruction="{answer} {wrong}")


def test_a_missing_library_of_a_metric_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(PortError, match=r"crucible-kitchen\[evaluate\]"):
        Evaluator().evaluate(lambda row: "x", ROWS, ["bleu"])
