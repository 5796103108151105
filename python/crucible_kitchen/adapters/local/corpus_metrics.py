"""How near answers are to references by measures of translation and summary, each in [0, 1].

They are those of ``rouge-score`` and ``sacrebleu``, so that a figure can be compared with others'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from crucible_kitchen.adapters.foreign import library

Measure = Callable[[Sequence[str], Sequence[str]], float]


def _rouge(kind: str) -> Measure:
    def measure(answers: Sequence[str], references: Sequence[str]) -> float:
        scorers = library("rouge_score.rouge_scorer", port="evaluator", extra="evaluate")
        scorer = scorers.RougeScorer([kind], use_stemmer=True)
        scores = [
            scorer.score(reference, answer)[kind].fmeasure
            for answer, reference in zip(answers, references, strict=True)
        ]
        return math.fsum(scores) / len(scores)

    return measure


def _sacrebleu(function: str) -> Measure:
    def measure(answers: Sequence[str], references: Sequence[str]) -> float:
        sacrebleu: Any = library("sacrebleu", port="evaluator", extra="evaluate")
        result = getattr(sacrebleu, function)(list(answers), [list(references)])
        return float(result.score) / 100.0

    return measure


CORPUS_METRICS: Final[Mapping[str, Measure]] = {
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
    "bleu": _sacrebleu("corpus_bleu"),
    "chrf": _sacrebleu("corpus_chrf"),
}
"""Name -> function of answers and references.

ROUGE is the mean F-measure over rows, with Porter's stemmer; BLEU and chrF are of the whole corpus.

Source: Lin 2004, https://aclanthology.org/W04-1013; Papineni et al. 2002,
https://aclanthology.org/P02-1040, as Post 2018 fixes it, https://arxiv.org/abs/1804.08771; Popovic
2015, https://aclanthology.org/W15-3049
"""
