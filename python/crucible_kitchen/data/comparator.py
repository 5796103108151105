"""Two answers in one prompt, for a model that says which of them is the better one.

Each pair is shown in both orders, so that neither place is the better one more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from crucible_kitchen.data.formats import Conversation
from crucible_kitchen.data.preferences import Preference
from crucible_kitchen.data.render import Rendered, render
from crucible_kitchen.errors import DataError
from crucible_kitchen.ports import Tokenizer
from crucible_kitchen.types import Message

_LETTERS: Final = ("A", "B")
_QUESTION: Final = """\
Below are a conversation and two ways to continue it. Which one is better? Reply with A or B alone.

==== Conversation ====
{prompt}

==== Answer A ====
{first}

==== Answer B ====
{second}

==== Better answer ====
A or B?"""


class Comparison(NamedTuple):
    """What a comparator reads, and what it may say.

    Args:
        tokens: up to where the letter stands.
        letters: the token of A and that of B.
    """

    tokens: list[int]
    letters: tuple[int, int]


def comparison(prompt: str, first: str, second: str, tokenizer: Tokenizer) -> Comparison:
    """Two answers to a prompt as a comparator reads them, by the model's own chat template.

    Args:
        prompt: as `transcript` writes it.
        first, second: the answers, likewise.
    Raises:
        DataError: the template refuses it, or leaves the letter away.
    """
    asked = Message("user", _QUESTION.format(prompt=prompt, first=first, second=second))
    a, b = (
        render(Conversation((asked, Message("assistant", letter)), 1), tokenizer, "completion_only")
        for letter in _LETTERS
    )
    both = zip(a.tokens, b.tokens, strict=False)
    place = next((i for i, (one, other) in enumerate(both) if one != other), None)
    if place is None:
        raise DataError("the chat template must keep an answer of one letter, got none of it")
    return Comparison(list(a.tokens[:place]), (a.tokens[place], b.tokens[place]))


def transcript(messages: Sequence[Message], *, roles: bool = True) -> str:
    """Messages as text that a comparator is shown."""
    return "\n\n".join(f"{m.role}: {m.content}" if roles else m.content for m in messages)


def compared(
    preference: Preference, tokenizer: Tokenizer, max_length: int | None, truncation: str
) -> tuple[tuple[Rendered, Rendered], bool] | None:
    """The better answer first, and last, each with its letter trained; and whether it was cut.

    Args:
        max_length: most tokens of either; None for no bound.
        truncation: ``left`` and ``middle`` cut the conversation before the answers.
    Returns:
        None, if the row is too long and to be left out.
    Raises:
        DataError: it is too long, and `truncation` is ``error`` or would cut an answer.
    """
    start = preference.chosen.prompt_messages
    prompt = transcript(preference.chosen.messages[:start])
    chosen, rejected = (transcript(side.messages[start:], roles=False) for side in preference)
    words = tokenizer.encode(prompt, add_special_tokens=False)
    keep = len(words)
    while True:
        sides = (
            _answered(comparison(prompt, chosen, rejected, tokenizer), 0),
            _answered(comparison(prompt, rejected, chosen, tokenizer), 1),
        )
        longest = max(len(side.tokens) for side in sides)
        if max_length is None or longest <= max_length:
            return sides, keep < len(words)
        if truncation == "drop":
            return None
        # Text that was cut may need another token where its ends meet, so it is cut until it fits.
        keep -= longest - max_length
        if truncation == "error" or keep < 1:
            way = "" if truncation == "error" else f" without cutting an answer by {truncation!r}"
            raise DataError(
                f"has {longest} tokens with both answers, more than max_length = {max_length}{way}"
            )
        head = 0 if truncation == "left" else keep // 2
        prompt = tokenizer.decode([*words[:head], *words[len(words) - (keep - head) :]])


def _answered(asked: Comparison, letter: int) -> Rendered:
    tokens = (*asked.tokens, asked.letters[letter])
    return Rendered(tokens, (*(0.0 for _ in asked.tokens), 1.0))
