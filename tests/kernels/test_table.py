"""The table of an op chooses the first kernel that does not refuse, and explains itself."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from crucible_kitchen import ops
from crucible_kitchen.errors import KernelError
from crucible_kitchen.ops import Kernel, Op


def doubled(x: int) -> int:
    return 2 * x


def halved(x: int) -> int:
    return x // 2


def refuses_odd(x: int) -> str | None:
    return f"{x} is odd" if x % 2 else None


def refuses_big(x: int) -> str | None:
    return f"{x} is over 100" if x > 100 else None


TOY = Op(
    "toy",
    kernels=(
        Kernel("cpu", f"{__name__}:halved", refuses_odd),
        Kernel("reference", f"{__name__}:doubled", refuses_big),
    ),
)


def test_the_first_that_does_not_refuse_runs() -> None:
    assert TOY.choose(8)(8) == 4
    assert TOY.choose(9)(9) == 18


def test_when_all_refuse_the_error_has_every_reason() -> None:
    with pytest.raises(KernelError, match=r"(?s)no kernel.*101 is odd.*101 is over 100"):
        TOY.choose(101)


def test_explanation_says_what_runs_and_why_not_the_others() -> None:
    assert str(TOY.explain(9)) == (
        "toy: reference runs\n  cpu       refused: 9 is odd\n  reference runs"
    )
    assert "reference could run, ranked below" in str(TOY.explain(8))
    assert TOY.explain(101).chosen is None


def test_using_holds_every_op_to_one_backend() -> None:
    with ops.using("reference"):
        assert TOY.choose(8)(8) == 16
        assert str(TOY.explain(8).verdicts[0].refused) == "held to reference"
        with pytest.raises(KernelError, match=r"using\('reference'\) is in force"):
            TOY.choose(102)
    assert TOY.choose(8)(8) == 4


def test_using_names_the_backends_it_knows() -> None:
    wrong: Any = "refrence"
    with (
        pytest.raises(ValueError, match="did you mean 'reference'"),
        ops.using(wrong),
    ):
        pass


def test_a_kernel_is_found_by_its_backend() -> None:
    assert TOY.kernel("cpu").load() is halved
    with pytest.raises(KernelError, match="toy: no 'cuda' kernel"):
        TOY.kernel("cuda")


def test_explain_takes_an_ops_name() -> None:
    explanation = ops.explain("grad_norm", [torch.zeros(2)])
    assert explanation.chosen is not None
    with pytest.raises(KernelError, match="did you mean 'grad_norm'"):
        ops.explain("gradnorm")


def test_every_table_ends_with_the_reference_and_names_real_functions() -> None:
    for name, op in ops.OPS.items():
        assert op.name == name
        assert op.kernels[-1].backend == "reference"
        assert len({kernel.backend for kernel in op.kernels}) == len(op.kernels)
        assert callable(getattr(ops, name))
        assert callable(op.kernel("reference").load())


def test_choosing_costs_microseconds() -> None:
    start = time.perf_counter()
    for _ in range(1000):
        TOY.choose(9)
    assert time.perf_counter() - start < 0.02, "20 us each, a tenth of that where nothing else runs"


def test_importing_the_ops_loads_no_kernel() -> None:
    script = (
        "import sys, crucible_kitchen.ops as ops\n"
        "targets = [k.target.split(':')[0] for op in ops.OPS.values() for k in op.kernels]\n"
        "kernels = [t for t in targets if t.startswith('crucible_kitchen.kernels')]\n"
        "print([m for m in [*kernels, 'triton'] if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout.strip() == "[]", shown.stdout + shown.stderr
