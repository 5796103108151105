"""`crucible bench`: every op is checked and timed beside its peers; a wrong kernel is not timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crucible_kitchen import ops
from crucible_kitchen.benchmarks import timing
from crucible_kitchen.benchmarks.errors_of import error_of, truth
from crucible_kitchen.benchmarks.problem import Problem, named_sizes, sizes_of
from crucible_kitchen.cli import main
from crucible_kitchen.kernels.common.tolerance import TOLERANCE


@pytest.fixture(autouse=True)
def keep_the_number_of_threads() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def bench(*arguments: str) -> int:
    return main(["bench", *arguments, "--size", "odd", "--samples", "2", "--device", "cpu"])


def test_every_op_has_its_table_and_its_file(capsys: Any, tmp_path: Path) -> None:
    assert bench("--save", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.replace(str(tmp_path), "").splitlines())) <= 80
    written = sorted(tmp_path.glob("*/*.json"))
    assert {file.name for file in written} == {f"{op}-float32-1t.json" for op in ops.OPS}
    for file in written:
        content = json.loads(file.read_text())
        assert {"device", "torch", "threads", "date"} <= set(content["machine"])
        first, *others = content["figures"][0]["rows"]
        assert first["name"] == "ours (cpu)"
        assert first["ratio"] == 1
        assert first["error"] <= TOLERANCE[torch.float32]
        assert first["roofline"] > 0
        assert others, f"{file.name}: nobody to compare with"
        assert f"{content['figures'][0]['op']}  odd  float32" in out


@pytest.mark.parametrize("op", ops.OPS)
def test_peers_compute_the_same(op: str) -> None:
    """A peer that computed something else would be no comparison."""
    problem = Problem(op, "odd", named_sizes(op)["odd"], torch.float32, "cpu")
    want = truth(problem)
    for name, call in problem.peers().items():
        if got := call():
            assert error_of(got, want) < 1e-4, name


def test_a_wrong_kernel_is_not_timed(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.swiglu
    monkeypatch.setattr(ops, "swiglu", lambda gate, up: 1.0001 * right(gate, up))
    assert bench("swiglu") == 1
    captured = capsys.readouterr()
    assert "swiglu odd: the cpu kernel must agree with the reference to 8.0e-06" in captured.err
    assert "median ms" not in captured.out


def test_missing_results_are_no_agreement() -> None:
    one = [torch.ones(3, dtype=torch.float64)]
    assert error_of([torch.ones(3)], one) == 0
    assert error_of([torch.tensor([1.0, 1.0, 2.0])], one) == pytest.approx(3**-0.5)
    assert error_of([torch.full((3,), torch.nan)], one) != 0
    assert error_of([torch.ones(3)] * 2, one) != 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rms_nrom"], "no op 'rms_nrom'; did you mean 'rms_norm'?"),
        (["swiglu", "--size", "od"], "swiglu has no size 'od'; did you mean 'odd'?"),
        (["swiglu", "--samples", "0"], "--samples must be at least 1, got 0"),
        (["swiglu", "--threads", "100000"], "--threads must be at most"),
    ],
)
def test_mistakes_are_named(arguments: list[str], said: str, capsys: Any) -> None:
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_llamas_sizes_are_for_gpus_unless_named() -> None:
    assert not any(name.startswith("llama") for name in sizes_of("lora_linear", "cpu"))
    assert "llama3_8b_q_r16" in sizes_of("lora_linear", "cuda")
    assert "llama3_8b_q_r16" in named_sizes("lora_linear")


def test_a_ratio_is_the_median_of_pairs() -> None:
    """A slow minute slows both of a pair: the ratio of medians would be 1.5 here."""
    ours, theirs = timing.Timing((1.0, 2.0, 10.0)), timing.Timing((2.0, 3.0, 20.0))
    assert theirs.over(ours) == 2.0
    assert ours.median == 2.0
    assert ours.quartiles == (1.5, 6.0)
