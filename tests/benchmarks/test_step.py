"""`crucible bench step` on a tiny model: the gradients of transformers + PEFT, then the table."""

from __future__ import annotations

import importlib.util
import multiprocessing
from typing import Any

import numpy as np
import pytest

from crucible_kitchen.benchmarks import step
from crucible_kitchen.benchmarks.errors_of import WrongResult
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
    rows = step.measure(folder, datums, step.StepOptions(samples=2), [datums])
    ours, *others = rows
    assert ours.name == "ours"
    assert [row.name for row in others] == step.contenders("cpu")[1:]
    for theirs in others:
        check_beside(ours, theirs)
    assert 0 < ours.gradient_error < 1e-5
    assert ours.losses[-1] < ours.losses[0], "nothing was learned"
    assert ours.tokens_per_s == pytest.approx(26 / ours.median_s)
    assert ours.ratio == 1
    table = list(step.lines(rows))
    assert max(map(len, table)) <= 80
    assert table[1].split()[0] == "ours"


def check_beside(ours: Any, theirs: Any) -> None:
    assert 0 < theirs.gradient_error < 1e-5
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    assert min(ours.peak_bytes, theirs.peak_bytes) > 1e8


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
    theirs = 1e-5 if dtype == "float32" else 0.1
    # Of two probes, one four times as far off as the other.
    found = {
        name: [{"a": np.array(1 + error / 2)}, {"a": np.array(1 + error * 2)}]
        for name, error in (("ours", ours), ("peer", theirs))
    }
    exact = [{"a": np.array(1.0)}] * 2
    if wrong:
        with pytest.raises(WrongResult, match=f"than a peer's, {theirs:.1e}"):
            step.gradient_errors(found, exact, dtype)
    else:
        errors = step.gradient_errors(found, exact, dtype)
        assert errors == pytest.approx({"ours": ours, "peer": theirs})


def test_probes_are_the_ends_of_rows() -> None:
    rows = [
        Datum(list(range(n)), {"target_tokens": list(range(1, n + 1)), "weights": [1.0] * n})
        for n in (200, 9, 100)
    ]
    found = step.probes(rows)
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


def test_nothing_is_measured_where_there_is_no_peer() -> None:
    assert step.gradient_errors({"ours": [{"a": np.array(1.0)}]}, [{}], "float32") == {"ours": None}


def test_a_contender_that_dies_is_an_error() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(WrongResult, match="a contender's process ended"):
        step._ask(ours, "step")


def test_other_parameters_are_no_agreement() -> None:
    assert step._distance({"a": [1.0]}, {"b": [1.0]}) != 0
