"""Where a step's time goes: every op has a part, and the parts are the whole step."""

from __future__ import annotations

from typing import Any

import pytest

from crucible_kitchen import _C
from crucible_kitchen.benchmarks import step_profile
from crucible_kitchen.testing.tiny_model import tiny_llama
from crucible_kitchen.types import Datum


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("crucible_kitchen::lora_linear_backward", "products"),
        ("crucible_kitchen::linear_logprobs", "loss"),
        ("aten::addmm", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::copy_", "copies and fills"),
        ("aten::add_", "sums by element"),
        ("crucible_kitchen::swiglu_backward", "norms, gate, rotary"),
        ("Optimizer.step#AdamW.step", "optimizer"),
        ("aten::index_select", "the rest"),
    ],
)
def test_an_op_has_one_part(name: str, part: str) -> None:
    assert step_profile.part_of(name) == part


@pytest.mark.slow
def test_the_table_of_a_tiny_model(tmp_path: Any) -> None:
    pytest.importorskip("peft", reason="the peer is PEFT")
    folder = str(tiny_llama(tmp_path / "tiny"))
    tokens = list(range(3, 40))
    datums = [Datum(tokens, {"target_tokens": tokens, "weights": [1.0] * len(tokens)})]
    found = step_profile.measure(folder, datums, warm_up=1)
    assert list(found) == ["ours, bfloat16", "ours", "transformers + PEFT"]
    for seconds in found.values():
        assert all(seconds[part] > 0 for part in ("products", "attention", "loss", "optimizer"))
        assert seconds["the rest"] < 0.5 * sum(seconds.values())
    table = list(step_profile.lines(found))
    assert max(map(len, table)) <= 80
    assert table[-1].split()[0] == "together"


def test_kernels_are_events_only_while_watched() -> None:
    before = _C.rms_norm_forward
    with step_profile.doors_watched():
        assert _C.rms_norm_forward is not before
    assert _C.rms_norm_forward is before
