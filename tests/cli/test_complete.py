"""``crucible complete``: a model, and what a run has trained on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crucible_kitchen.cli import main
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[str, str]:
    """A tiny model's folder, and that of a run that taught it to say one thing."""
    folder = tmp_path_factory.mktemp("complete")
    model = tiny_llama(folder / "tiny")
    rows = [{"prompt": f"Count from {n}.", "completion": "one two three"} for n in range(16)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["run", "sft", f"model={model}", f"dataset={folder / 'rows.jsonl'}", "epochs=8"]
    arguments += ["learning_rate=1e-2", "eval_rows=0", "samples=0", "dtype=float32", "--quiet"]
    assert main([*arguments, "--run-dir", str(folder / "run")]) == 0
    return model, str(folder / "run")


def test_a_run_answers_as_it_was_taught(trained, capsys) -> None:
    assert main(["complete", trained[1], "Count from 3.", "--max-tokens", "40"]) == 0
    assert capsys.readouterr().out.strip() == "one two three"


def test_base_asks_the_model_before_the_training(trained, capsys) -> None:
    assert main(["complete", trained[1], "Count from 3.", "--base", "--max-tokens", "8"]) == 0
    of_run = capsys.readouterr().out
    assert main(["complete", trained[0], "--max-tokens", "8", "Count from 3."]) == 0
    assert capsys.readouterr().out == of_run
    assert of_run.strip() != "one two three"


def test_a_terminal_is_a_chat_that_remembers_what_was_said(trained, capsys, monkeypatch) -> None:
    from crucible_kitchen.adapters.local import Completer

    typed, asked = ["Count from 3.", "  ", "And from 5?"], []
    stream = Completer.stream_complete

    def listened(self, messages, **options):
        asked.append([(message["role"], message["content"]) for message in messages])
        return stream(self, messages, **options)

    def read(prompt: str) -> str:
        if not typed:
            raise EOFError
        return typed.pop(0)

    monkeypatch.setattr(Completer, "stream_complete", listened)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", read)
    assert main(["complete", trained[1], "--system", "Count.", "--max-tokens", "40"]) == 0
    first, second = asked
    assert first == [("system", "Count."), ("user", "Count from 3.")]
    said = capsys.readouterr().out.splitlines()[0]
    assert second == [*first, ("assistant", said), ("user", "And from 5?")]


def test_a_run_without_an_adapter_says_so(trained, tmp_path, capsys) -> None:
    for name in ("config.json", "events.jsonl"):
        (tmp_path / name).write_text(Path(trained[1], name).read_text())
    assert main(["complete", str(tmp_path), "x"]) == 2
    assert "must hold an adapter, got none; --base asks" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--max-tokens", "0"], ["--temperature", "-1"]])
def test_a_wrong_option_is_2(trained, capsys, option) -> None:
    assert main(["complete", trained[0], "x", *option]) == 2
    assert "crucible: completer: " in capsys.readouterr().err


def test_a_model_that_is_not_there_is_one_clear_error(tmp_path, capsys) -> None:
    assert main(["complete", str(tmp_path), "x"]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("crucible: ") == 1
    assert str(tmp_path) in said
