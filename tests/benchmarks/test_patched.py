"""The benchmark of patched models: what it trains, what it tells, and its page."""

from __future__ import annotations

import pytest
import torch

from crucible_kitchen.benchmarks import patched
from crucible_kitchen.benchmarks.patched import ARCHITECTURES, Task, batch_of, serve, table
from crucible_kitchen.integrations.patching import ARCHITECTURES as KNOWN


class Pipe:
    """An end that asks for one turn."""

    def __init__(self) -> None:
        self.said = ["end", "train"]
        self.got: list[tuple[list[float], list[float], dict[str, object], int]] = []

    def recv(self) -> str:
        return self.said.pop()

    def send(self, answer: tuple[list[float], list[float], dict[str, object], int]) -> None:
        self.got.append(answer)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_turn_of_either_process_trains_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ARCHITECTURES) <= set(KNOWN)
    small = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    monkeypatch.setattr(patched, "SIZES", {**patched.SIZES, **small})
    task = Task("llama", "", "float32", 8, 2, torch.get_num_threads(), "process")
    answers = []
    for is_patched in (True, False):
        pipe = Pipe()
        serve(pipe, task, is_patched)  # type: ignore[arg-type]
        answers += pipe.got
    (losses, seconds, gradients, _), (wants, *_) = answers
    assert losses == pytest.approx(wants, rel=1e-5)
    assert (len(losses), len(seconds), len(gradients)) == (2, 2, 14)


def test_rows_are_padded_on_the_right_and_trained_whole() -> None:
    batch = batch_of(Task("llama", "", "float32", 8, 1, 1, "wall"), 96)
    assert batch["attention_mask"].sum(1).tolist() == [8, 6, 4, 2]
    assert torch.equal(batch["labels"] != -100, batch["attention_mask"] == 1)


def test_the_page_has_a_line_of_each_model_and_dtype() -> None:
    where = {"device": "a cpu", "threads": "1", "torch": "2.x", "date": "2026-01-01"}
    where["clock"] = "wall"
    row = {"name": "llama", "dtype": "float32", "plain_s": 0.5, "patched_s": 0.25, "ratio": 2.0}
    row |= {"plain_bytes": 300 << 20, "patched_bytes": 150 << 20}
    assert [*table(where, {"llama float32": row})][-1] == (
        "| llama | float32 | 500 | 250 | 2.00 | 300 MiB | 150 MiB | 0.50 |"
    )
