"""``crucible export``: what a run has trained, for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crucible_kitchen.cli import main
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def run_dir(model, tmp_path_factory) -> Path:
    """A run that taught a tiny model to say one thing."""
    folder = tmp_path_factory.mktemp("export")
    rows = [{"prompt": f"Count from {n}.", "completion": "one two three"} for n in range(16)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["run", "sft", f"model={model}", f"dataset={folder / 'rows.jsonl'}", "epochs=8"]
    arguments += ["learning_rate=1e-2", "eval_rows=0", "samples=0", "dtype=float32", "--quiet"]
    assert main([*arguments, "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


def ask(model, capsys) -> str:
    assert main(["complete", str(model), "Count from 3.", "--max-tokens", "40"]) == 0
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("form", ["peft", "merged", "gguf"])
def test_what_is_written_answers_as_the_run_was_taught(run_dir, tmp_path, capsys, form) -> None:
    assert main(["export", str(run_dir), "--format", form, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"written        {tmp_path / 'out'}  (0." in said
    assert "from the trained model" in said
    assert ask(tmp_path / "out", capsys) == "one two three"
    if form == "gguf":
        (file,) = (tmp_path / "out").glob("run-float16.gguf")
        assert ask(file, capsys) == "one two three"


def test_a_folder_of_lora_weights_is_exported_too(run_dir, model, tmp_path, capsys) -> None:
    arguments = ["export", str(run_dir / "adapter"), "--format", "merged", "--dtype", "float16"]
    assert main([*arguments, "--model", model, "--out", str(tmp_path / "out")]) == 0
    assert "MiB, float16)" in capsys.readouterr().out
    assert ask(tmp_path / "out", capsys) == "one two three"


def test_base_of_lora_weights_is_the_model_before_the_training(run_dir, model, capsys) -> None:
    question = ["Count from 3.", "--max-tokens", "8"]
    assert main(["complete", str(run_dir / "adapter"), "--base", *question]) == 0
    untrained = capsys.readouterr().out
    assert main(["complete", model, *question]) == 0
    assert capsys.readouterr().out == untrained != "one two three\n"


def test_mistakes_are_told_in_one_line(run_dir, model, tmp_path, capsys) -> None:
    out = ["--out", str(tmp_path / "out")]
    for arguments, code, said in (
        ([str(run_dir), "--format", "onnx", *out], 2, "invalid choice: 'onnx'"),
        ([str(run_dir), "--dtype", "int4", *out], 2, "dtype of peft must be one of float32"),
        ([str(run_dir)], 2, "--out"),
        ([str(run_dir), "--out", str(run_dir)], 2, "out must be a new or an empty folder"),
        ([model, *out], 1, "must be a folder with adapter_config.json"),
        ([str(run_dir), "--model", str(tmp_path / "gone"), *out], None, "gone"),
    ):
        got = main(["export", *arguments])
        assert got == code if code is not None else got in (1, 2)
        error = capsys.readouterr().err
        assert said in error
        assert error.count("crucible: ") == 1
    assert not (tmp_path / "out").exists()
