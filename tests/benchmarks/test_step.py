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
    rows = step.measure(folder, datums, step.StepOptions(samples=2))
    ours, theirs = rows
    assert (ours.name, theirs.name) == ("ours", "transformers + PEFT")
    assert ours.gradient_error is not None
    assert theirs.gradient_error is not None
    assert 0 < ours.gradient_error < 1e-5
    assert 0 < theirs.gradient_error < 1e-5
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    assert ours.losses[-1] < ours.losses[0], "nothing was learned"
    assert ours.tokens_per_s == pytest.approx(26 / ours.median_s)
    assert min(ours.peak_bytes, theirs.peak_bytes) > 1e8
    assert ours.ratio == 1
    table = list(step.lines(rows))
    assert max(map(len, table)) <= 80
    assert table[1].split()[0] == "ours"


@pytest.mark.parametrize(("ours", "wrong"), [(2e-6, False), (2e-5, True), (float("nan"), True)])
def test_gradients_further_from_float64_than_the_peers_are_refused(
    ours: float, wrong: bool
) -> None:
    found = {name: {"a": np.array(1 + error)} for name, error in (("ours", ours), ("peer", 1e-5))}
    exact = {"a": np.array(1.0)}
    if wrong:
        with pytest.raises(WrongResult, match=r"than a peer's, 1\.0e-05"):
            step.gradient_errors(found, exact, "float32")
    else:
        errors = step.gradient_errors(found, exact, "float32")
        assert errors == pytest.approx({"ours": ours, "peer": 1e-5})


def test_liger_is_a_contender_on_gpus_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"peft", "liger_kernel"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    assert step.contenders("cpu") == ["ours", "transformers + PEFT"]
    assert step.contenders("cuda") == ["ours", "transformers + PEFT", "PEFT + Liger"]
    installed.clear()
    assert step.contenders("cuda") == ["ours"]


def test_nothing_is_measured_where_there_is_no_peer() -> None:
    assert step.gradient_errors({"ours": {"a": np.array(1.0)}}, {}, "float32") == {"ours": None}


def test_a_contender_that_dies_is_an_error() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(WrongResult, match="a contender's process ended"):
        step._ask(ours, "step")


def test_other_parameters_are_no_agreement() -> None:
    assert step._distance({"a": [1.0]}, {"b": [1.0]}) != 0
