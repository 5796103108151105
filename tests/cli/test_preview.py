"""``crucible preview``: what is trained is shown, all rows are counted, bad ones are all named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crucible_kitchen.cli import main

NOOP = ["--adapters", "noop", "--adapter", "dataset_store=files", "model=none"]
ROWS = [
    {"prompt": "What is 1?", "completion": "It is 1."},
    {"messages": [{"role": "user", "content": "Say é"}, {"role": "assistant", "content": "é [x]"}]},
    {"text": "plain"},
    {"prompt": "long " * 40, "completion": "short"},
]
PAIRS = [
    {"prompt": "Q", "chosen": "good", "rejected": "bad one"},
    {"prompt": "R", "chosen": "same", "rejected": "same"},
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)


def write(rows) -> str:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "dataset=rows.jsonl"


def preview(capsys, *arguments: str) -> str:
    assert main(["preview", *arguments, *NOOP, "eval_rows=0"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_what_is_trained_stands_in_brackets_where_there_is_no_colour(capsys) -> None:
    out = preview(capsys, "sft", write(ROWS), "max_length=120")
    assert "What is trained stands in [[ ]]." in out
    assert "row 0: 38 tokens, 9 trained\n" in out
    assert "<|im_start|>user\nWhat is 1?<|im_end|>\n<|im_start|>assistant\n[[It is 1." in out
    assert "[[é [x]<|im_end|>]]" in out, "markup and bytes of one character stay whole"
    assert "[[plain<|im_end|>]]" in out or "p[[lain<|im_end|>]]" in out
    assert "row 3" not in out, "three rows are shown unless told otherwise"
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_colour_takes_the_place_of_brackets(capsys) -> None:
    out = preview(capsys, "sft", write(ROWS), "--rows", "1", "--color", "always")
    assert "[[" not in out
    assert "\x1b[1;32mIt is 1.<|im_end|>" in out
    assert "row 1" not in out


def test_every_row_is_counted(capsys) -> None:
    out = preview(capsys, "sft", write(ROWS), "--rows", "0", "max_length=120")
    lines = {line.split()[0]: line for line in out.splitlines() if line[:1].isalpha()}
    assert lines["rows"] == "rows       4 to train, 0 held out"
    assert "left out   0" in out
    assert lines["cut"] == "cut        1 to max_length = 120"
    assert " trained" in lines["tokens"]
    assert lines["lengths"].startswith("lengths    6 to 120, half of them up to ")
    counts = [int(line.split()[-1]) for line in out.splitlines() if " - " in line]
    assert sum(counts) == 4
    assert max(map(len, out.splitlines())) <= 80


def test_rows_that_are_left_out_are_counted_with_the_reason(capsys) -> None:
    rows = [*ROWS, {"messages": [{"role": "user", "content": "nothing"}]}]
    out = preview(capsys, "sft", write(rows), "truncation=drop", "max_length=100", "untrained=drop")
    assert "left out   1 (20.0%): too long" in out
    assert "left out   1 (20.0%): nothing in it is trained" in out


def test_both_answers_of_a_preference_are_shown(capsys) -> None:
    out = preview(capsys, "dpo", write(PAIRS), "equal_answers=drop")
    prompt = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert f"chosen:\n{prompt}[[good<|im_end|>]]" in out
    assert "rejected:\n" in out
    assert "[[bad one<|im_end|>]]" in out
    assert "left out   1 (50.0%): neither answer is better" in out
    assert "of 2 sequences" in out


def test_all_bad_rows_are_named_at_once(capsys) -> None:
    rows = [
        ROWS[0],
        {"question": "?"},
        ROWS[1],
        *[{"prompt": n, "completion": "a"} for n in range(12)],
    ]
    assert main(["preview", "sft", write(rows), *NOOP, "eval_rows=0"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "13 of 15 rows cannot be used:\n  row 1 must have messages" in captured.err
    assert "\n  row 3: prompt: must be text or a list of messages, got int" in captured.err
    assert captured.err.rstrip().endswith("and 3 more")


@pytest.mark.parametrize(
    ("recipe", "good"), [("sft", ROWS[0]), ("dpo", PAIRS[0]), ("reward", PAIRS[0])]
)
def test_bad_rows_that_are_held_out_are_named_too(capsys, recipe, good) -> None:
    Path("data").mkdir()
    for split, rows in (("train", [good]), ("test", [good, {"question": "?"}])):
        Path("data", f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    where = ["dataset=data", "eval_split=test", "eval_rows=2"]
    assert main(["preview", recipe, *where, *NOOP]) == 1
    error = capsys.readouterr().err
    assert "1 of 3 rows cannot be used:\n  held out: row 1 must have" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sft", "--rows", "-1"], "--rows must be at least 0"),
        (["sft", "max_lenth=3"], "unknown key 'max_lenth'; did you mean 'max_length'"),
        (["sfx"], "no recipe 'sfx'"),
    ],
)
def test_a_wrong_question_is_refused(capsys, arguments, said) -> None:
    assert main(["preview", *arguments, *NOOP, write(ROWS)]) == 2
    assert said in capsys.readouterr().err


def test_a_row_of_another_recipe_is_refused_with_advice(capsys) -> None:
    assert main(["preview", "sft", write(PAIRS), *NOOP, "eval_rows=0"]) == 1
    assert "preference training" in capsys.readouterr().err


def test_the_real_tokenizer_is_read_without_the_model(capsys, tmp_path, monkeypatch) -> None:
    from crucible_kitchen.adapters.local.model import CausalModel
    from crucible_kitchen.testing.tiny_model import tiny_llama

    def loaded(*arguments, **options):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(CausalModel, "load", loaded)
    model = tiny_llama(tmp_path / "tiny")
    capsys.readouterr()
    code = main(["preview", "sft", write(ROWS), f"model={model}", "eval_rows=0"])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    assert "[[It is 1.<|im_end|>]]" in captured.out
    assert not list(tmp_path.glob("runs"))


def test_reward_shows_answers_with_how_they_were_judged(capsys) -> None:
    rows = [{**PAIRS[0], "margin": 0.5}, {**PAIRS[0], "tie": True}, PAIRS[0]]
    out = preview(capsys, "reward", write(rows))
    for how in ("better by 0.5 than", "equal to", "better than"):
        assert f"chosen, {how} rejected" in out
    assert "<|im_start|>assistant\n[[good<|im_end|>]]" in out


def test_reward_names_all_bad_rows(capsys) -> None:
    rows = [PAIRS[0], {**PAIRS[0], "margin": -1}, PAIRS[1]]
    assert main(["preview", "reward", write(rows), *NOOP, "eval_rows=0"]) == 1
    error = capsys.readouterr().err
    assert "2 of 3 rows cannot be used" in error
    assert "row 1: margin" in error
    assert "row 2: chosen and rejected must differ" in error
