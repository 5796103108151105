"""Noop adapters that keep account of what the workflow asks of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import noop
from crucible_kitchen.engine import RunResult


class Recorder(noop.TrainingClient):
    """A noop client that writes down its calls, and can be told to give other results."""

    def __init__(self, change: Callable[[str, int, Any], Any] | None = None) -> None:
        super().__init__()
        self.log: list[tuple[str, Any]] = []
        self._change = change or (lambda call, number, result: result)

    def _noted(self, call: str, about: Any, future: Any) -> Any:
        self.log.append((call, about))
        number = self.names().count(call)
        return type(future).resolved(self._change(call, number, future.result()))

    def names(self) -> list[str]:
        return [name for name, _ in self.log]

    def count(self, name: str) -> int:
        return self.names().count(name)

    def forward_backward(self, session, datums, *rest):
        return self._noted(
            "forward_backward", list(datums), super().forward_backward(session, datums, *rest)
        )

    def forward(self, session, datums, *rest):
        return self._noted("forward", list(datums), super().forward(session, datums, *rest))

    def forward_backward_custom(self, session, datums, fn):
        return self._noted(
            "custom", list(datums), super().forward_backward_custom(session, datums, fn)
        )

    def score(self, session, datums):
        return self._noted("score", list(datums), super().score(session, datums))

    def optim_step(self, session, params):
        return self._noted("optim_step", params, super().optim_step(session, params))

    def save_checkpoint(self, session, path):
        return self._noted("save_checkpoint", path, super().save_checkpoint(session, path))

    def close_session(self, session):
        self.log.append(("close_session", session.id))
        super().close_session(session)


@pytest.fixture
def recorder() -> type[Recorder]:
    """The class above; test files cannot import from here."""
    return Recorder


def spoiled(step: int) -> Callable[[str, int, Any], Any]:
    """What makes the loss of one step no number."""

    def change(call: str, number: int, result: Any) -> Any:
        if (call, number) != ("custom", step):
            return result
        return replace(result, metrics={**result.metrics, "loss:sum": math.nan})

    return change


@pytest.fixture
def spoil() -> Callable[[int], Recorder]:
    """A client whose loss is no number at some step."""
    return lambda step: Recorder(spoiled(step))


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    """Ten rows of a prompt and an answer."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def sft(tmp_path: Path, rows_file: str) -> Callable[..., RunResult]:
    """Run `sft` on ten rows with a client, and fields of the configuration."""

    def run(client: noop.TrainingClient | None = None, **config: Any) -> RunResult:
        return ck.run(
            "sft",
            {"model": "none", "dataset": rows_file, "eval_rows": 2, **config},
            adapters={"training_client": client or Recorder(), "completer": noop.Completer()},
            run_dir=tmp_path / "run",
            handlers=(),
        )

    return run
