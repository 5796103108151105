"""One launch over many tensors: which program works on which part of which tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def blocks_of(numels: Tensor, block: int) -> Tensor:
    """The tensor and the first element of every block, [BLOCKS, 2], int64.

    Args:
        numels: elements of each tensor, [TENSORS], int64, on the CPU.
        block: elements of a block; the last block of a tensor may be shorter.
    """
    counts = (numels + block - 1) // block
    tensor = torch.repeat_interleave(torch.arange(len(numels)), counts)
    before = torch.cumsum(counts, 0) - counts
    return torch.stack((tensor, (torch.arange(len(tensor)) - before[tensor]) * block), dim=1)
