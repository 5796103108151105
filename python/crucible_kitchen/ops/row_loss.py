"""`row_loss`: the loss of each row of a few numbers, such as a pair of answers, with its slopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.errors import did_you_mean
from crucible_kitchen.kernels.row_loss.terms import DEFAULTS, Settings, Term
from crucible_kitchen.ops._library import register, transformed
from crucible_kitchen.ops._refusals import cpu_refuses, cuda_refuses
from crucible_kitchen.ops._table import Kernel, Op

_FORMULAS: Final = {name: i for i, name in enumerate(_C.row_loss_formulas)}
_DIVERGENCES: Final = {name: i for i, name in enumerate(_C.row_loss_divergences)}
_CONSTANTS: Final = 5
_TRAINED: Final = {torch.float32, torch.bfloat16, torch.float64}
_FIXED: Final = {*_TRAINED, torch.bool}


def row_loss(
    first: Tensor,
    second: Tensor | None = None,
    *constants: Tensor | None,
    terms: Sequence[Term],
    settings: Settings = DEFAULTS,
) -> Tensor:
    """The weighted sum of some formulas, for each row; differentiable in `first` and `second`.

    `pairwise_loss`, `dpo_loss` and `policy_loss` call it with their arguments checked and named;
    kernels/row_loss/README.md lists what each formula takes for its columns.

    The kernels give the first derivative in one pass. For what needs more (a second derivative, a
    gradient of a constant, a transform of `torch.func`, forward mode, `torch.compile`) the
    definition is computed by plain torch, which does all of it.

    Args:
        first, second: what is trained, [P]: float32, bfloat16, float64 or float16.
        *constants: up to five columns [P], floating point or bool; None for zeros.
        terms: formulas with their weights and label smoothing, 1 to 16.
        settings: numbers that the formulas read.

    Returns:
        [P], in the dtype of `first`; float64 inside.

    Raises:
        ValueError: shapes or devices differ, or a formula, a divergence or their number is unknown.
        TypeError: a trained column is not floating point.
        KernelError: no kernel takes the tensors, under `using`.
    """
    columns = (first, second, *constants)
    _check(columns, terms, settings)
    if transformed() or not ROW_LOSS.serves(*columns):
        return _by_torch(first, second, *constants, terms=terms, settings=settings)
    made: tuple[Tensor, Tensor] = _row_loss(
        *columns,
        *(None,) * (2 + _CONSTANTS - len(columns)),
        [_FORMULAS[term.formula] for term in terms],
        [float(term.weight) for term in terms],
        [float(term.smoothing) for term in terms],
        _DIVERGENCES[settings.divergence],
        [float(number) for number in settings[1:]],
    )
    return made[0]


def _by_torch(
    first: Tensor, *others: Tensor | None, terms: Sequence[Term], settings: Settings
) -> Tensor:
    if transformed():  # nothing is chosen while torch traces
        from crucible_kitchen.kernels.row_loss.reference import row_loss as definition
    else:
        definition = ROW_LOSS.choose(first, *others)
    loss: Tensor = definition(first, *others, terms=terms, settings=settings)
    return loss


def _check(columns: tuple[Tensor | None, ...], terms: Sequence[Term], settings: Settings) -> None:
    first = columns[0]
    assert first is not None
    if len(columns) > 2 + _CONSTANTS:
        raise ValueError(f"row_loss: constants must be 5 at most, got {len(columns) - 2}")
    if first.ndim != 1:
        raise ValueError(f"row_loss: first must have shape [P], got {list(first.shape)}")
    for i, column in enumerate(columns):
        if column is None:
            continue
        if i < 2 and not column.is_floating_point():
            raise TypeError(f"row_loss: {_name(i)} must be floating point, got {column.dtype}")
        if column.shape != first.shape:
            raise ValueError(
                f"row_loss: {_name(i)} must have shape [P] = {list(first.shape)}, "
                f"got {list(column.shape)}"
            )
        if column.device != first.device:
            raise ValueError(
                f"row_loss: {_name(i)} must be on first's device, {first.device}, "
                f"got {column.device}"
            )
    if not 1 <= len(terms) <= 16:
        raise ValueError(f"row_loss: terms must be 1 to 16, got {len(terms)}")
    for term in terms:
        if term.formula not in _FORMULAS:
            raise ValueError(
                f"row_loss: a formula must be one of {', '.join(_FORMULAS)}, "
                f"got {term.formula!r}; {did_you_mean(term.formula, _FORMULAS)}"
            )
    if settings.divergence not in _DIVERGENCES:
        raise ValueError(
            f"row_loss: divergence must be one of {', '.join(_DIVERGENCES)}, "
            f"got {settings.divergence!r}"
        )


def _name(i: int) -> str:
    return ("first", "second")[i] if i < 2 else f"constants[{i - 2}]"


def _refuses(*columns: Tensor | None) -> str | None:
    """Why a kernel that computes first derivatives alone cannot take these, or None."""
    for i, column in enumerate(columns):
        if column is None:
            continue
        if column.dtype not in (_TRAINED if i < 2 else _FIXED):
            return f"{_name(i)} is {column.dtype}; it takes float32, bfloat16 and float64"
        if i >= 2 and column.requires_grad and torch.is_grad_enabled():
            return f"{_name(i)} requires a gradient; it has slopes in first and second alone"
    return None


def _cuda_refuses(first: Tensor, *others: Tensor | None, **_: Any) -> str | None:
    return cuda_refuses(first) or _refuses(first, *others)


def _cpu_refuses(first: Tensor, *others: Tensor | None, **_: Any) -> str | None:
    return cpu_refuses(first) or _refuses(first, *others)


def _outputs(first: Tensor, second: Tensor | None) -> tuple[Tensor, Tensor]:
    """Loss and slopes, to be written."""
    trained, device = (1 if second is None else 2), first.device
    loss = torch.empty(first.shape, dtype=first.dtype, device=device)
    wide = torch.promote_types(first.dtype, torch.float32)
    slopes = torch.empty((trained, first.shape[0]), dtype=wide, device=device)
    return loss, slopes


def _arguments(made: tuple[Tensor, Tensor], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the registered op takes, in the door's order."""
    *columns, formulas, weights, smoothings, divergence, numbers = args
    terms = list(zip(formulas, weights, smoothings, strict=True))
    return columns, terms, divergence, numbers, *made


def _cuda(*args: Any) -> tuple[Tensor, Tensor]:
    made = _outputs(*args[:2])
    with torch.cuda.device(args[0].device):
        _C.row_loss_cuda(*_arguments(made, args))
    return made


def _cpu(*args: Any) -> tuple[Tensor, Tensor]:
    made = _outputs(*args[:2])
    _C.row_loss_cpu(*_arguments(made, args), torch.get_num_threads())
    return made


# These give loss and slopes, from what the registered op takes.
_WITH_SLOPES = Op(
    "row_loss",
    kernels=(
        Kernel("cuda", f"{__name__}:_cuda", _cuda_refuses),
        Kernel("cpu", f"{__name__}:_cpu", _cpu_refuses),
    ),
)

ROW_LOSS = Op(
    "row_loss",
    kernels=(
        *_WITH_SLOPES.kernels,
        Kernel(
            "reference",
            "crucible_kitchen.kernels.row_loss.reference:row_loss",
            lambda *columns, **options: None,
        ),
    ),
)


def _run(*args: Any) -> tuple[Tensor, Tensor]:
    made: tuple[Tensor, Tensor] = _WITH_SLOPES.choose(*args[: 2 + _CONSTANTS])(*args)
    return made


def _fake(first: Tensor, second: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    return _outputs(first, second)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    slopes = output[1]
    ctx.mark_non_differentiable(slopes)
    ctx.save_for_backward(*inputs[: 2 + _CONSTANTS], slopes)
    ctx.told = inputs[2 + _CONSTANTS :]


def _backward(ctx: Any, dloss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    first, second, *_constants, slopes = ctx.saved_tensors
    made = [
        slope.to(column.dtype)
        for slope, column in zip((dloss * slopes).unbind(), (first, second), strict=False)
    ]
    return *made, *(None,) * (2 + _CONSTANTS - len(made) + len(ctx.told))


def _backward_again(ctx: Any, dloss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    """By the definition, in the graph that is being made."""
    formulas, weights, smoothings, divergence, numbers = ctx.told
    *columns, _slopes = ctx.saved_tensors
    # Views: one tensor may be both columns, and has a slope for each.
    trained = [None if column is None else column.view_as(column) for column in columns[:2]]
    names = list(_FORMULAS)
    loss = ROW_LOSS.kernel("reference").load()(
        *trained,
        *columns[2:],
        terms=[
            Term(names[formula], *rest)
            for formula, *rest in zip(formulas, weights, smoothings, strict=True)
        ],
        settings=Settings(list(_DIVERGENCES)[divergence], *numbers),
    )
    wanted = [column for column in trained if column is not None and column.requires_grad]
    made = iter(torch.autograd.grad(loss, wanted, dloss, create_graph=True, allow_unused=True))
    slopes = (next(made) if any(column is one for one in wanted) else None for column in trained)
    return *slopes, *(None,) * (_CONSTANTS + len(ctx.told))


_row_loss = register(
    "row_loss(Tensor first, Tensor? second, Tensor? a, Tensor? b, Tensor? c, Tensor? d, Tensor? e,"
    " int[] formulas, float[] weights, float[] smoothings, int divergence, float[] numbers)"
    " -> (Tensor loss, Tensor slopes)",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    backward_again=_backward_again,
)
