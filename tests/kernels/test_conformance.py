"""The one test that every kernel of every op takes: values and gradients against the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crucible_kitchen import _C, ops

from .conftest import device, promised
from .trials import Trial, cases_of, disagreements, for_each_tensor, results, run_both, trials

TRIALS = list(trials(promised()))
ALONE = pytest.mark.skipif(
    bool(os.environ.get("CRUCIBLE_BACKENDS")), reason="this process was given its backends"
)


def refusal(trial: Trial, args: tuple[Any, ...]) -> str | None:
    """Why the trial's kernel does not take its own inputs, or None."""
    return ops.OPS[trial.op].kernel(trial.backend).refuses(*args, **trial.options)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_matches_reference(trial: Trial) -> None:
    args = trial.inputs(device())
    if reason := refusal(trial, args):
        pytest.skip(reason)  # test_promise_is_kept fails if it refuses everything
    assert not disagreements(*run_both(trial, args))


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_takes_strided_inputs(trial: Trial) -> None:
    def stride(tensor: Tensor) -> Tensor:
        """The same values, every other element of a wider tensor."""
        if tensor.ndim == 0:
            return tensor
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7, dtype=tensor.dtype)
        wide = wide.to(tensor.device)
        wide[..., ::2] = tensor
        return wide[..., ::2]

    args = for_each_tensor(stride, trial.inputs(device()))
    if reason := refusal(trial, args):
        pytest.skip(reason)  # the public op takes them by another kernel, and can explain it
    assert not disagreements(*run_both(trial, args))


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_repeats_bit_for_bit(trial: Trial) -> None:
    if reason := refusal(trial, trial.inputs(device())):
        pytest.skip(reason)
    first, _ = run_both(trial, trial.inputs(device()))
    second, _ = run_both(trial, trial.inputs(device()))
    for name, tensors in first.items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, second[name], strict=True)), name


@pytest.mark.parametrize("backend", promised())
def test_promise_is_kept(backend: str) -> None:
    """A backend this machine promises takes at least one case of each op: a skip hides nothing."""
    broken = []
    for name, op in ops.OPS.items():
        backends = {kernel.backend for kernel in op.kernels}
        if backend in ("cuda", "triton") and backend not in backends:
            continue  # one of the two is enough; every other backend has every op
        mine = [trial for trial in trials([backend]) if trial.op == name]
        reasons = {refusal(trial, trial.inputs(device())) for trial in mine}
        if None not in reasons:
            broken.append(f"{name}: {' / '.join(sorted(map(str, reasons))) or 'no kernel'}")
    assert not broken, f"{backend} refuses every case of {broken}"


class _Recorder(TorchFunctionMode):
    """Keeps one call of each of our ops, backward ops included."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith("crucible_kitchen."):
            overload = getattr(func, "default", func)

            def copy(tensor: Tensor) -> Tensor:
                return tensor.detach().clone().requires_grad_(tensor.requires_grad)

            saved = for_each_tensor(copy, tuple(args))
            self.calls.setdefault(str(overload), (overload, saved, kwargs or {}))
        return func(*args, **(kwargs or {}))


@ALONE
@pytest.mark.parametrize("op", ops.OPS)
def test_torch_accepts_the_registration(op: str) -> None:
    """Schema, fake kernel and autograd hold what they promise to torch.compile."""
    trial = Trial(op, "reference", list(cases_of(op).SIZES)[-1], torch.float32)
    with _Recorder() as recorder:
        results(trial, getattr(ops, op), trial.inputs("cpu"))
    assert recorder.calls, "the op is not registered with torch"
    for overload, args, options in recorder.calls.values():
        torch.library.opcheck(overload, args, options)


@ALONE
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # of torch.compile
@pytest.mark.parametrize("op", ops.OPS)
def test_one_graph_gives_what_the_op_gives(op: str) -> None:
    trial = Trial(op, "reference", list(cases_of(op).SIZES)[-1], torch.float32)
    call = getattr(ops, op)
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    want, got = (results(trial, f, trial.inputs("cpu")) for f in (call, compiled))
    assert not disagreements(got, {n: [t.double() for t in ts] for n, ts in want.items()})


HERE = Path(__file__)
FILES = (__file__, *(str(HERE.with_name(f"test_adamw_{n}.py")) for n in ("guard", "bfloat16")))


def run_again(*options: str, **environment: str) -> None:
    """This file and its like in a process, for what is fixed when a process starts."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *FILES],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        cwd=HERE.parents[2],
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


@ALONE
def test_triton_under_its_interpreter() -> None:
    """Triton kernels on the CPU; the switch is read when a kernel is decorated.

    The interpreter takes a millisecond for each step of a loop, and runs one program after another:
    that it repeats itself says nothing of a GPU. So large cases run once. What strides or half
    precision change shows on few blocks as on many, and what strides do in one dtype as in the
    other; masks and rows of many updates are the same in both, and float16 has larger tiles.
    """
    left_out = (
        "repeats_bit",
        "strided and (float16 or dropout or both or triton-many- or many_ or long)",
        "float16 and (many_ or long) and not lora_linear_many",
        "float32 and (dropout or both or triton-many-)",
        "many_blocks",  # `odd` has several blocks along each axis too
        "many_tokens",  # a program of rope has one row
    )
    wanted = " and ".join(f"not ({what})" for what in left_out)
    run_again("-k", wanted, TRITON_INTERPRET="1", CRUCIBLE_BACKENDS="triton")


LEVELS = ("generic", "avx2", "avx512", "avx512vnni", "avx512bf16")
OTHERS = LEVELS[: LEVELS.index(_C.isa())]
if _C.isa() == "avx512vnni" and torch.cpu._is_avx512_bf16_supported():
    OTHERS += ("avx512bf16",)  # which Intel's processors have, and which does not pay there


@ALONE
@pytest.mark.parametrize("level", OTHERS)
def test_other_instruction_sets(level: str) -> None:
    """The CPU kernels as other machines run them."""
    run_again(CRUCIBLE_CPU_ISA=level, CRUCIBLE_BACKENDS="cpu")
