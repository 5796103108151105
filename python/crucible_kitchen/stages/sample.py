"""Let the model answer a few held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crucible_kitchen.data import PlainText, parse_row
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Completer, Row, Tokenizer
from crucible_kitchen.types import Message

Sample = dict[str, Any]


@stage(writes="answers")
def sample(
    held_out_rows: Sequence[Row],
    tokenizer: Tokenizer,
    max_length: int,
    step: int,
    samples: int,
    sample_tokens: int,
    *,
    completer: Completer | None,
) -> list[Sample]:
    """The likeliest answers to the first held-out prompts; none without a completer.

    Args:
        held_out_rows: rows that are never trained. Those that ask nothing, such as plain text, or
            ask in more than `max_length` tokens, are passed over.
        tokenizer: of the model that answers.
        step: optimizer steps taken by the model that answers.
        samples: how many prompts.
        sample_tokens: most tokens of an answer.
    Returns:
        A dict a prompt: ``step``, ``messages`` (what was asked), ``wanted`` (the row's own answer),
        ``text``.
    """
    if completer is None:
        return []
    answers: list[Sample] = []
    for row in held_out_rows:
        if len(answers) == samples:
            break
        example = parse_row(row)
        if isinstance(example, PlainText):
            continue
        asked, wanted = split_answer(example.messages)
        words = tokenizer.encode("\n".join(message.content for message in asked))
        if not asked or len(words) > max_length:
            continue
        answer = completer.complete(asked, max_tokens=sample_tokens, temperature=0.0)
        answers.append(
            {
                "step": step,
                "messages": [message.to_dict() for message in asked],
                "wanted": wanted,
                "text": answer.text,
            }
        )
    return answers


def split_answer(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """A conversation up to its last assistant's turn, and what that turn says."""
    last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=len(messages))
    return list(messages[:last]), "".join(message.content for message in messages[last : last + 1])
