"""Host side of the Triton kernel of `rope`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.launcher import DTYPES, Launcher, architecture_of, dense

from . import builds
from .variant import Variant


def variant(launch: Launcher) -> Variant:
    """The Triton kernel as a variant, started by `launch`."""
    return Variant(partial(_rotate, launch))


def _rotate(launch: Launcher, x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    T, A, D = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        configuration = builds.rotate(DTYPES[x.dtype], architecture_of(x), D // 2)
        args = (dense(x), dense(cos), dense(sin), y, A, D // 2, -1.0 if back else 1.0)
        launch("rope.rotate", (T * A,), args, configuration)
    return y
