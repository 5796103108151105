"""`crucible bench step` on a tiny model: the gradients of transformers + PEFT, then the table."""

from __future__ import annotations

import importlib.util
import multiprocessing
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from crucible_kitchen.benchmarks import step
from crucible_kitchen.benchmarks.errors_of import WrongResult
from crucible_kitchen.benchmarks.step_contenders import Contender, Step
from crucible_kitchen.benchmarks.step_gradients import check_gradients, gradient_error, probes
from crucible_kitchen.testing.tiny_model import tiny_llama
from crucible_kitchen.types import Datum


@pytest.mark.slow
def test_ours_beside_peft(tmp_path: Any) -> None:
    pytest.importorskip("peft", reason="the peer is PEFT")
    folder = str(tiny_llama(tmp_path / "tiny"))
    datums = [
        Datum(
            list(range(3, 3 + length)),
            {
                "target_tokens": list(range(4, 4 + length)),
                "weights": [float(i >= trained) for i in range(length)],
            },
        )
        for length, trained in ((17, 4), (9, 0))
    ]
    options = step.StepOptions(dtypes=("float32",), samples=2)
    rows = step.measure(folder, datums, options, [datums])
    ours, *others = rows
    assert ours.name == "ours"
    assert [row.name for row in others] == step.contenders("cpu")[1:]
    for theirs in others:
        check_beside(ours, theirs)
    assert 0 < ours.gradient_error < 1e-5
    assert ours.losses[-1] < ours.losses[0], "nothing was learned"
    assert ours.tokens_per_s == pytest.approx(26 / ours.median_s)
    assert min(row.ratio for row in others) <= 1


def check_beside(ours: Any, theirs: Any) -> None:
    assert 0 < theirs.gradient_error < 1e-5
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    assert min(ours.peak_bytes, theirs.peak_bytes) > 1e8


class Answers:
    """A contender's pipe, with what each takes made up."""

    def __init__(self, one: Contender) -> None:
        self.one, self.asked = one, []

    def send(self, asked: str) -> None:
        self.asked.append(asked)

    def recv(self) -> Any:
        if self.asked[-1] == "gradients":
            off = {"float64": 0, "float32": 1e-6, "bfloat16": 1e-2}
            exact = self.one.name == "float64"
            return [{"a": np.array(1 + (0 if exact else off[self.one.dtype]))}]
        float32 = {"ours": 4.0, "transformers + PEFT": 8.0, "TRL": 10.0}[self.one.name]
        slower = {"ours": 0.5, "transformers + PEFT": 2, "TRL": 0.9}[self.one.name]
        seconds = float32 * (slower if self.one.dtype == "bfloat16" else 1)
        return Step(1.0 / len(self.asked), seconds, 10**9)


def test_ours_take_turns_in_each_dtype_and_peers_in_their_faster(monkeypatch: Any) -> None:
    groups = []

    @contextmanager
    def processes(chosen: Any, what: Any) -> Any:
        groups.append([Answers(one) for one in chosen])
        yield groups[-1]

    monkeypatch.setattr(step, "_processes", processes)
    monkeypatch.setattr(step, "write_adapter", lambda folder, adapter: None)
    monkeypatch.setattr(step, "contenders", lambda device: ["ours", "transformers + PEFT", "TRL"])
    datum = Datum([1, 2], {"target_tokens": [2, 3], "weights": [1.0, 1.0]})
    rows = step.measure("model", [datum], step.StepOptions(samples=3), [[datum]])
    asked = {(index, *a.one): len(a.asked) for index, group in enumerate(groups) for a in group}
    assert asked == {
        (0, "float64", "float32"): 1,
        (0, "transformers + PEFT", "float32"): 2,
        (0, "TRL", "float32"): 2,
        (1, "float64", "bfloat16"): 1,
        (1, "transformers + PEFT", "bfloat16"): 2,
        (1, "TRL", "bfloat16"): 2,
        (2, "ours", "float32"): 5,
        (2, "ours", "bfloat16"): 5,
        (2, "transformers + PEFT", "float32"): 4,
        (2, "TRL", "bfloat16"): 4,
    }
    found = [(row.name, row.dtype, row.samples, row.ratio) for row in rows]
    assert found == [
        ("ours", "float32", 3, 2),
        ("ours", "bfloat16", 3, 4),
        ("transformers + PEFT", "float32", 3, 1),
        ("transformers + PEFT", "bfloat16", 1, 0.5),
        ("TRL", "float32", 1, 0.8),
        ("TRL", "bfloat16", 3, pytest.approx(8 / 9)),
    ]
    assert [row.gradient_error for row in rows] == pytest.approx([1e-6, 1e-2] * 3)
    table = list(step.lines(rows))
    assert max(map(len, table)) <= 80
    assert table[2].split()[:2] == ["ours", "bfloat16"]


def test_without_a_peer_ratios_are_of_our_fastest() -> None:
    seconds = {"float32": (50, 4, 6, 6), "bfloat16": (50, 2, 2, 3)}
    taken = {Contender("ours", d): [Step(1.0, s, 1) for s in own] for d, own in seconds.items()}
    rows = step._rows(taken, {}, list(taken), 8)
    assert [row.ratio for row in rows] == [0.5, 1]
    assert [row.tokens_per_s for row in rows] == [8 / 6, 4]
    assert [row.gradient_error for row in rows] == [None, None]


@pytest.mark.parametrize(
    ("ours", "dtype", "wrong"),
    [
        (2e-6, "float32", False),
        (2e-5, "float32", True),
        (float("nan"), "float32", True),
        (0.14, "bfloat16", False),
        (0.16, "bfloat16", True),
    ],
)
def test_gradients_further_from_float64_than_the_peers_are_refused(
    ours: float, dtype: str, wrong: bool
) -> None:
    own, theirs = Contender("ours", dtype), 1e-5 if dtype == "float32" else 0.1
    errors = {own: ours, Contender("peer", dtype): theirs, Contender("peer", "float64"): 1.0}
    if wrong:
        with pytest.raises(WrongResult, match=f"in {dtype} .* than a peer's, {theirs:.1e}"):
            check_gradients(own, errors)
    else:
        check_gradients(own, errors)


def test_errors_of_probes_count_by_their_geometric_mean() -> None:
    found = [{"a": np.array(1 + 0.1 / 2)}, {"a": np.array(1 + 0.1 * 2)}]
    assert gradient_error(found, [{"a": np.array(1.0)}] * 2) == pytest.approx(0.1)
    assert gradient_error([{"a": np.array(1.0)}], [{"b": np.array(1.0)}]) != 0  # NaN


def test_probes_are_the_ends_of_rows() -> None:
    rows = [
        Datum(list(range(n)), {"target_tokens": list(range(1, n + 1)), "weights": [1.0] * n})
        for n in (200, 9, 100)
    ]
    found = probes(rows)
    lengths = [[datum.model_input.length for datum in probe] for probe in found]
    assert lengths == [[96, 9], [96]]
    assert found[0][0].model_input.to_ints() == list(range(104, 200))


def test_who_is_installed_is_a_contender_and_liger_on_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"peft", "liger_kernel"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    assert step.contenders("cpu") == ["ours", "transformers + PEFT"]
    assert step.contenders("cuda") == ["ours", "transformers + PEFT", "PEFT + Liger"]
    installed.add("trl")
    assert step.contenders("cpu") == ["ours", "transformers + PEFT", "TRL"]
    installed.clear()
    assert step.contenders("cuda") == ["ours"]


def test_a_contender_that_dies_is_an_error() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(WrongResult, match="a contender's process ended"):
        step._ask(ours, "step")
