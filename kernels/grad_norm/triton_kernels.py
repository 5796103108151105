"""The norm in Triton: one float64 partial sum a block, blocks of all tensors in one launch."""

# Triton's language is not annotated.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from crucible_kitchen.kernels.common.blocks import blocks_of

_BLOCK = 4096


@triton.jit
def _squares(
    like,  # a tensor of the gradients' dtype; only its type is used
    addresses,  # [TENSORS, 2]: address, elements
    blocks,  # [BLOCKS, 2]: tensor, first element
    partials,  # [BLOCKS], float64
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    tensor = tl.load(blocks + block * 2)
    element = tl.load(blocks + block * 2 + 1) + tl.arange(0, BLOCK)  # [BLOCK]
    pointer = tl.load(addresses + tensor * 2).to(like.dtype) + element
    inside = element < tl.load(addresses + tensor * 2 + 1)
    grad = tl.load(pointer, mask=inside, other=0.0).to(tl.float64)  # [BLOCK]
    tl.store(partials + block, tl.sum(grad * grad))


def grad_norm(grads: Sequence[Tensor]) -> Tensor:
    """The norm as a float64 scalar; each tensor dense."""
    groups: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for grad in grads:
        if grad.numel():
            groups[grad.dtype].append(grad)
    total = torch.zeros((), dtype=torch.float64, device=grads[0].device if grads else None)
    for members in groups.values():
        addresses = torch.tensor([[t.data_ptr(), t.numel()] for t in members])
        blocks = blocks_of(addresses[:, 1], _BLOCK)
        partials = torch.empty(len(blocks), dtype=torch.float64, device=total.device)
        _squares[(len(blocks),)](
            members[0],
            addresses.to(total.device),
            blocks.to(total.device),
            partials,
            BLOCK=_BLOCK,
        )
        total += partials.sum()
    return total.sqrt()
