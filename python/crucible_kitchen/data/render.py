"""Conversations and texts as tokens, each with its weight in the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crucible_kitchen.data.formats import Conversation, PlainText
from crucible_kitchen.data.spans import Marked, check_train_on, chosen, mark
from crucible_kitchen.errors import DataError
from crucible_kitchen.ports import Tokenizer
from crucible_kitchen.types import Message


@dataclass(frozen=True)
class Rendered:
    """A row as the model sees it.

    Args:
        tokens: token ids, in order.
        weights: one a token: 1 where the token is to be predicted, 0 where it is only read. They
            are not shifted; `build_datums` does that.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


def render(
    example: Conversation | PlainText | Sequence[Message], tokenizer: Tokenizer, train_on: str
) -> Rendered:
    """Render an example through the tokenizer's own chat template.

    Tokens are those that the model meets at inference: the prompt of an answer is tokenized alone,
    so that no token straddles the border. The end of a turn is trained with it; whitespace that the
    template puts behind the end-of-turn token is not. Plain text has no template, is trained whole
    whatever `train_on` says, and ends with the end-of-sequence token. A tokenizer without a chat
    template can render one prompt and one answer, by putting them end to end.

    Args:
        example: what `parse_row` gives, or messages.
        train_on: one of `TRAIN_ON`.

    Raises:
        ConfigError: an unknown `train_on`.
        DataError: the template refuses the messages or hides where they begin, or there is none
            and it takes more than putting two texts end to end.
    """
    check_train_on(train_on)
    if isinstance(example, PlainText):
        return _joined([(tokenizer.encode(example.text), True)], tokenizer)
    if not isinstance(example, Conversation):
        example = Conversation(tuple(example))
    if not tokenizer.chat_template:
        return _without_template(example, tokenizer, train_on)
    marked = mark(example, tokenizer, train_on)
    pieces = _tokenized(marked, tokenizer)
    if train_on != "all_tokens":
        pieces = [
            part
            for tokens, trained in pieces
            for part in (_cut_behind_turn(tokens, tokenizer) if trained else [(tokens, False)])
        ]
    return _flat(pieces)


Piece = tuple[list[int], bool]
"""Tokens, and whether they are trained."""


def _flat(pieces: Sequence[Piece]) -> Rendered:
    return Rendered(
        tuple(token for tokens, _ in pieces for token in tokens),
        tuple(float(trained) for tokens, trained in pieces for _ in tokens),
    )


def _joined(pieces: list[Piece], tokenizer: Tokenizer) -> Rendered:
    """Pieces end to end, with the end-of-sequence token behind a last piece that is trained."""
    tokens, trained = pieces[-1]
    end = tokenizer.eos_token_id
    if trained and end is not None and tokens[-1:] != [end]:
        pieces = [*pieces[:-1], ([*tokens, end], True)]
    return _flat(pieces)


def _without_template(conversation: Conversation, tokenizer: Tokenizer, train_on: str) -> Rendered:
    messages = conversation.messages
    roles = [message.role for message in messages]
    more = conversation.tools or messages[-1].tool_calls or messages[-1].thinking
    if roles != ["user", "assistant"] or more:
        raise DataError(
            "the tokenizer has no chat template, and without one a row must be text, or one prompt "
            f"and one completion in words; got messages of {', '.join(roles)}"
        )
    trained = chosen(conversation, train_on)
    return _joined(
        [
            (tokenizer.encode(messages[0].content), 0 in trained),
            (tokenizer.encode(messages[1].content, add_special_tokens=False), 1 in trained),
        ],
        tokenizer,
    )


def _tokenized(marked: Marked, tokenizer: Tokenizer) -> list[Piece]:
    """The tokens of a rendered conversation, in pieces that are trained or are not."""
    pieces: list[tuple[str, bool]] = []
    place = 0
    for start, end in marked.spans:
        pieces += [(marked.text[place:start], False), (marked.text[start:end], True)]
        place = end
    pieces.append((marked.text[place:], False))

    def encode(text: str) -> list[int]:
        # The template wrote all special tokens already.
        return tokenizer.encode(text, add_special_tokens=False)

    tokens = [(encode(text), trained) for text, trained in pieces if text]
    joined = [token for piece, _ in tokens for token in piece]
    whole = encode(marked.text)
    if joined == whole or tokenizer.decode(joined) == tokenizer.decode(whole):
        return tokens
    # Some tokenizers put a space before every text, so pieces do not add up; cut the whole instead.
    return _cut(whole, pieces, encode)


def _cut(
    whole: list[int], pieces: Sequence[tuple[str, bool]], encode: Callable[[str], list[int]]
) -> list[Piece]:
    cut: list[Piece] = []
    text, start = "", 0
    for piece, trained in pieces:
        text += piece
        tokens = encode(text)
        if whole[: len(tokens)] != tokens:
            raise DataError(
                f"the tokenizer joins {piece[-12:]!r} with what follows it into one token, so "
                "trained tokens cannot be told from others"
            )
        cut.append((whole[start : len(tokens)], trained))
        start = len(tokens)
    return cut


def _cut_behind_turn(tokens: list[int], tokenizer: Tokenizer) -> list[Piece]:
    """Trained tokens up to the end-of-turn token, and apart from them the whitespace behind it."""
    for place in range(len(tokens) - 1, -1, -1):
        token = tokens[place]
        if _is_special(token, tokenizer):
            return [(tokens[: place + 1], True), (tokens[place + 1 :], False)]
        if tokenizer.decode([token]).strip():
            break
    return [(tokens, True)]


def _is_special(token: int, tokenizer: Tokenizer) -> bool:
    if token == tokenizer.eos_token_id:
        return True
    return not tokenizer.decode([token], skip_special_tokens=True) and bool(
        tokenizer.decode([token])
    )
