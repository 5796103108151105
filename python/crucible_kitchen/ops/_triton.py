"""The two ways to a Triton kernel: compiled when the wheel was built, or by Triton on first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.kernels.common.configuration import Configuration
from crucible_kitchen.kernels.common.launcher import DTYPES
from crucible_kitchen.kernels.common.tuning import OF_CUBIN
from crucible_kitchen.ops._refusals import elsewhere, gpu_refuses, triton_refuses
from crucible_kitchen.ops._table import Kernel


def triton_kernels(
    op: str,
    built_refuses: Callable[..., str | None],
    refuses: Callable[..., str | None] = lambda *args, **options: None,
) -> tuple[Kernel, Kernel]:
    """The rows of an op's table for its kernels/<op>/triton_launch.py.

    Args:
        op: its name.
        built_refuses: why no cubin of this build serves the sizes at hand, or None. It may be given
            the first argument alone.
        refuses: why the kernels themselves cannot take the arguments, or None; devices and dtypes
            have been looked at.
    """

    def ahead(*args: object, **options: object) -> str | None:
        first = _first(args)
        return (
            _ahead_refuses(first)
            or _size_refuses(first)
            or refuses(*args, **options)
            or built_refuses(*args, **options)
        )

    def jit(*args: object, **options: object) -> str | None:
        first = _first(args)
        mine = _dtype_refuses(first) or triton_refuses(first) or _size_refuses(first)
        return mine or refuses(*args, **options)

    target = f"crucible_kitchen.kernels.{op}.triton_launch:variant"
    return (
        Kernel(
            "cuda", target, ahead, launcher=f"{__name__}:launch", how="compiled with this build"
        ),
        Kernel(
            "triton",
            target,
            jit,
            launcher="crucible_kitchen.kernels.common.jit:launch",
            how="compiled by Triton on first use",
        ),
    )


def launch(
    kernel: str,
    grid: tuple[int, ...],
    args: Sequence[Tensor | int | float | None],
    configuration: Configuration,
) -> None:
    """Starts a cubin of this build; see `kernels.common.launcher.Launcher`."""
    tensor = args[0]
    assert isinstance(tensor, Tensor), "every kernel's first argument is a tensor"
    architecture = _architecture(tensor.device)
    assert architecture is not None, "a device without cubins was refused"
    _family(kernel, architecture, configuration).launch(grid, args)


def _first(args: Sequence[object]) -> Tensor:
    tensor = args[0]
    assert isinstance(tensor, Tensor), "the op has checked it"
    return tensor


def _dtype_refuses(tensor: Tensor) -> str | None:
    if tensor.dtype not in DTYPES:
        return f"the tensors are {tensor.dtype}; it takes float32, float16 and bfloat16"
    return None


_MOST = 2**31 - 1


def _size_refuses(tensor: Tensor) -> str | None:
    """Addresses are 64 bits wide; rows and columns are counted in 32, as the axes of a grid are."""
    if tensor.numel() <= _MOST:
        return None
    return next((f"a dimension of {n} is over 2^31 - 1" for n in tensor.shape if n > _MOST), None)


def _ahead_refuses(tensor: Tensor) -> str | None:
    if not tensor.is_cuda:
        return elsewhere(tensor.device)
    return (
        _dtype_refuses(tensor)
        or _why_no_cubins()
        or gpu_refuses(tensor.device)
        or _architecture_refuses(tensor.device)
    )


@cache
def _why_no_cubins() -> str | None:
    if none := _C.why_no_cuda():
        return none
    try:
        _C.Cubins()
    except RuntimeError as e:
        return str(e)
    return None


@cache
def _architecture_refuses(device: torch.device) -> str | None:
    if _architecture(device) in (built := _C.Cubins().architectures):
        return None
    names = ", ".join(f"sm_{architecture}" for architecture in sorted(built))
    capability = torch.cuda.get_device_capability(device)
    return "{} is sm_{}{}; this build has kernels for {}".format(device, *capability, names)


@cache
def _architecture(device: torch.device) -> int | None:
    """Whose cubins run on a device; those of one major version run on its later minor ones."""
    known: int | None = OF_CUBIN.get(torch.cuda.get_device_capability(device))
    return known


@cache
def _family(kernel: str, architecture: int, configuration: Configuration) -> _C.CubinFamily:
    return _C.Cubins().family(kernel, architecture, configuration.key)
