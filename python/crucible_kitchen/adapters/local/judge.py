"""A model that grades another one's answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from crucible_kitchen import ports
from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.types import Message

_LOWEST: Final = 1
_HIGHEST: Final = 10
_RATING: Final = re.compile(r"rating:\s*(?:\[\[)?(\d+(?:\.\d+)?)", re.IGNORECASE)

INSTRUCTION: Final = """\
Grade the answer to a question on a scale of 1 to 10 by how correct, helpful and complete it is. \
The reference answer is right; another wording is as good. Explain in one sentence, then end with \
the line "Rating: N".

[Question]
{question}

[Reference answer]
{reference}

[Answer]
{answer}
"""
"""What the judge is told by default; a template of one's own has the same fields."""


def check_instruction(instruction: str) -> str:
    """The template, as it is.

    Raises:
        ConfigError: it has other fields than ``question``, ``reference`` and ``answer``, or does
            not show the answer.
    """
    try:
        filled = instruction.format(question="", reference="", answer="\0")
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            "evaluator: judge_instruction must be a template with the fields question, reference "
            f"and answer, got {error!r}"
        ) from error
    if "\0" not in filled:
        raise ConfigError("evaluator: judge_instruction must hold {answer}, got none")
    return instruction


def grades(
    judge: ports.Completer,
    instruction: str,
    questions: Sequence[Sequence[Message]],
    references: Sequence[str],
    answers: Sequence[str],
) -> list[float]:
    """What the judge gives each answer, from 0 to 1.

    Raises:
        DataError: the judge gave no rating, or one off the scale; the message names the row.

    Source: Zheng et al. 2023, section 3.1 (single answer grading, reference-guided),
    https://arxiv.org/abs/2306.05685
    """
    asked = [
        [
            Message(
                "user",
                instruction.format(
                    question="\n\n".join(turn.content for turn in question),
                    reference=reference,
                    answer=answer,
                ),
            )
        ]
        for question, reference, answer in zip(questions, references, answers, strict=True)
    ]
    replies = judge.complete_batch(asked, temperature=0.0)
    return [_grade(reply.text, row) for row, reply in enumerate(replies)]


def _grade(reply: str, row: int) -> float:
    found = _RATING.findall(reply)
    if not found:
        raise DataError(
            f'evaluator: the judge must end with "Rating: N", got {reply[-80:]!r} for row {row}'
        )
    rating = float(found[-1])
    if not _LOWEST <= rating <= _HIGHEST:
        raise DataError(
            f"evaluator: the judge must rate from {_LOWEST} to {_HIGHEST}, got {rating:g} for row "
            f"{row}"
        )
    return (rating - _LOWEST) / (_HIGHEST - _LOWEST)
