"""What is trained, to the token, under templates of several kinds."""

from __future__ import annotations

import jinja2
import pytest

from crucible_kitchen.adapters.noop import ByteTokenizer
from crucible_kitchen.data import Conversation, PlainText, parse_row, render
from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.types import Message


class Templated(ByteTokenizer):
    """Bytes under any template, as Hugging Face's tokenizers are."""

    def __init__(self, template):
        self.chat_template = template

    def apply_chat_template(self, conversation, *, tokenize=True, **variables):
        def refuse(message):
            raise jinja2.TemplateError(message)

        template = jinja2.Template(self.chat_template, trim_blocks=True, lstrip_blocks=True)
        text = template.render(messages=conversation, raise_exception=refuse, **variables)
        return self.encode(text) if tokenize else text


class Spaced(ByteTokenizer):
    """Puts a space before every text, as sentencepiece does."""

    def encode(self, text, *, add_special_tokens=True):
        return super().encode(" " + text, add_special_tokens=add_special_tokens)


def shown(rendered, tokenizer):
    """The text with trained runs in brackets."""
    text, inside = "", False
    for token, weight in zip(rendered.tokens, rendered.weights, strict=True):
        if bool(weight) != inside:
            text += "]" if inside else "["
            inside = bool(weight)
        text += tokenizer.decode([token])
    return text + "]" * inside


def talk(*turns):
    return [Message(role, content) for role, content in turns]


CHAT = talk(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))


@pytest.mark.parametrize(
    ("train_on", "text"),
    [
        ("last_assistant", "{s}S{e}{u}a{e}{a}b{e}{u}c{e}{a}[d<|im_end|>]\n"),
        ("completion_only", "{s}S{e}{u}a{e}{a}b{e}{u}c{e}{a}[d<|im_end|>]\n"),
        ("all_assistant", "{s}S{e}{u}a{e}{a}[b<|im_end|>]\n{u}c{e}{a}[d<|im_end|>]\n"),
        (
            "all_messages",
            "{s}[S<|im_end|>]\n{u}[a<|im_end|>]\n{a}[b<|im_end|>]\n{u}[c<|im_end|>]\n"
            "{a}[d<|im_end|>]\n",
        ),
        ("all_tokens", "[{s}S{e}{u}a{e}{a}b{e}{u}c{e}{a}d<|im_end|>\n]"),
    ],
)
def test_what_is_trained_in_chatml(train_on, text):
    tokenizer = ByteTokenizer()
    header = {key: f"<|im_start|>{role}\n" for key, role in zip("sua", ROLES, strict=True)}
    wanted = text.format(**header, e="<|im_end|>\n")
    assert shown(render(CHAT, tokenizer, train_on), tokenizer) == wanted


ROLES = ("system", "user", "assistant")


def test_whats_behind_the_last_trained_message_is_not_read():
    got = render([*CHAT, Message("user", "and?")], ByteTokenizer(), "last_assistant")
    assert got == render(CHAT, ByteTokenizer(), "last_assistant")


def test_a_completion_of_several_messages_is_trained_whole():
    example = Conversation(tuple(CHAT), prompt_messages=2)
    text = shown(render(example, ByteTokenizer(), "completion_only"), ByteTokenizer())
    assert text.split("[")[1].startswith("b<|im_end|>\n<|im_start|>user\nc<|im_end|>")


def test_customized_trains_the_marked_messages():
    marked = [Message(m.role, m.content, trainable=m.content in "bc") for m in CHAT]
    text = shown(render(marked, ByteTokenizer(), "customized"), ByteTokenizer())
    assert [part.split("]")[0] for part in text.split("[")[1:]] == ["b<|im_end|>", "c<|im_end|>"]


def test_marks_and_train_on_must_agree():
    with pytest.raises(DataError, match="message 0 must have trainable"):
        render(CHAT, ByteTokenizer(), "customized")
    marked = [CHAT[1], Message("assistant", "b", trainable=False)]
    with pytest.raises(DataError, match="message 1 has trainable, which only"):
        render(marked, ByteTokenizer(), "last_assistant")


def test_an_unknown_train_on_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'last_assistant'"):
        render(CHAT, ByteTokenizer(), "last_asistant")


def test_a_conversation_without_an_answer_has_no_weight():
    assert not any(render(CHAT[:2], ByteTokenizer(), "last_assistant").weights)


def test_a_header_that_looks_like_its_content_is_told_from_it():
    tokenizer = ByteTokenizer()
    text = shown(render(talk(("user", "user\n")), tokenizer, "all_messages"), tokenizer)
    assert text == "<|im_start|>user\n[user\n<|im_end|>]\n"


LLAMA = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}</s>{% endif %}{% endfor %}"
)


def test_a_template_without_generation_prompt_or_special_tokens():
    tokenizer = Templated(LLAMA)
    got = render(talk(("user", "a"), ("assistant", " b ")), tokenizer, "last_assistant")
    assert shown(got, tokenizer) == "<s>[INST] a [/INST][ b</s>]"


COLON = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"


def test_an_end_of_turn_of_whitespace_is_trained():
    tokenizer = Templated(COLON + "{% if add_generation_prompt %}assistant: {% endif %}")
    got = render(talk(("user", "a"), ("assistant", "b")), tokenizer, "last_assistant")
    assert shown(got, tokenizer) == "user: a\n\nassistant: [b\n\n]"


def test_an_assistant_that_speaks_first_has_no_prompt():
    tokenizer = Templated("{{ 'BEGIN ' if messages }}" + COLON)
    got = render(talk(("assistant", "b")), tokenizer, "last_assistant")
    assert shown(got, tokenizer) == "BEGIN assistant: [b\n\n]"


FORGETS = (
    "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}(thinks)"
    "{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_template_that_rewrites_its_past_is_refused_where_that_matters():
    tokenizer = Templated(FORGETS)
    with pytest.raises(DataError, match=r"renders message 2 differently .*last_assistant"):
        render(CHAT, tokenizer, "all_assistant")
    assert shown(render(CHAT, tokenizer, "last_assistant"), tokenizer).endswith("[(thinks)d]")


LATER = (
    "{% for m in messages if m.role != 'system' %}{{ messages[0].content }}{{ m.content }}/"
    "{% endfor %}"
)


def test_a_message_that_is_written_with_the_next_one_cannot_be_trained_alone():
    turns = talk(("system", "S"), ("user", "a"))
    with pytest.raises(DataError, match=r"writes message 0 \(system\) only with what follows it"):
        render(turns, Templated(LATER), "all_messages")
    assert shown(render(turns, Templated(LATER), "all_tokens"), Templated(LATER)) == "[Sa/]"


def test_a_template_that_refuses_says_why():
    tokenizer = Templated("{{ raise_exception('no system role here') }}")
    with pytest.raises(DataError, match="refuses these messages: no system role here"):
        render(CHAT, tokenizer, "last_assistant")


def test_tools_reach_the_template():
    tokenizer = Templated("{% for t in tools %}<{{ t.name }}>{% endfor %}" + COLON)
    row = {"prompt": "a", "completion": "b", "tools": [{"name": "f"}]}
    text = shown(render(parse_row(row), tokenizer, "completion_only"), tokenizer)
    assert text.startswith("<f>user: a\n\n")


CALLS = [
    Message("user", "a"),
    Message("assistant", tool_calls=({"name": "f", "arguments": {"x": 1}},)),
    Message("tool", "1"),
    Message("assistant", "b", thinking="so b"),
]
CALLING = (
    "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content }}{{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.function.name }}({{ c.function.arguments.x }}){% endfor %}"
    "\n\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_calls_and_thoughts_are_trained_where_the_template_shows_them() -> None:
    tokenizer = Templated(CALLING)
    text = shown(render(CALLS, tokenizer, "all_assistant"), tokenizer)
    assert text == "user: a\nassistant: [f(1)\n]tool: 1\nassistant: [so bb\n]"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": CALLS[:1], "tools": [{"name": "f"}]}, None),
        ({"messages": CALLS[:3], "tools": [{"name": "f"}]}, "leaves tools away"),
        ({"messages": CALLS[:3]}, "leaves away tool_calls of message 1"),
        ({"messages": [CALLS[0], CALLS[3]]}, "leaves away thinking of message 1"),
        # What was thought before the last answer is left away by many templates.
        ({"messages": [CALLS[0], CALLS[3], CALLS[0], Message("assistant", "c")]}, None),
    ],
)
def test_a_template_that_leaves_away_what_is_learnt_is_refused(row, said) -> None:
    if said is None:
        render(parse_row(row), ByteTokenizer(), "last_assistant")
        return
    with pytest.raises(DataError, match=f"the chat template {said}; a model whose template"):
        render(parse_row(row), ByteTokenizer(), "last_assistant")


def test_a_model_without_a_template_has_no_place_for_thoughts() -> None:
    tokenizer = Templated("")
    with pytest.raises(DataError, match=r"no chat template.*one completion in words"):
        render([CALLS[0], CALLS[3]], tokenizer, "completion_only")


THINKS_FIRST = COLON + "{% if add_generation_prompt %}assistant: <think>{% endif %}"


def test_an_answer_that_does_not_begin_as_inference_does_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"answer 1 .*'<think>' instead of 'b.*chat_template.jinja"):
        render(talk(("user", "a"), ("assistant", "b")), Templated(THINKS_FIRST), "last_assistant")


def test_a_tokenizer_that_adds_a_space_is_cut_where_its_whole_text_allows():
    tokenizer = Spaced()
    got = render(CHAT, tokenizer, "last_assistant")
    whole = tokenizer.apply_chat_template(CHAT)
    assert list(got.tokens) == whole, "spaces were put between the pieces"
    assert shown(got, tokenizer).endswith("assistant\n[d<|im_end|>]\n")


def test_plain_text_is_trained_whole_and_ends():
    got = render(PlainText("ab"), ByteTokenizer(), "last_assistant")
    assert got.tokens == (97, 98, ByteTokenizer.eos_token_id)
    assert got.weights == (1.0, 1.0, 1.0)


def test_without_a_template_prompt_and_completion_stand_end_to_end():
    tokenizer = Templated(None)
    example = parse_row({"prompt": "a", "completion": "b"})
    assert shown(render(example, tokenizer, "last_assistant"), tokenizer) == "a[b<|im_end|>]"
    assert shown(render(example, tokenizer, "all_tokens"), tokenizer) == "[ab<|im_end|>]"
    with pytest.raises(DataError, match=r"no chat template.*messages of system, user"):
        render(CHAT, tokenizer, "last_assistant")
