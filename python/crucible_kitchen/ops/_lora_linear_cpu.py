"""`lora_linear` by the compiled kernel, which reads the frozen weight in panels packed once."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.kernels.lora_linear.variant import (
    NO_DROP,
    Drop,
    Forward,
    Gradients,
    Variant,
)


@dataclass(frozen=True, slots=True)  # of whose attributes Python asks faster than of a tuple's
class _Packed:
    """Panels of a weight, and what it was when they were made."""

    weight: weakref.ref[Tensor]
    address: int
    version: int | None  # tensors made under inference_mode count none
    panels: Tensor
    rows_together: bool
    given_back: bool

    def is_of(self, weight: Tensor) -> bool:
        """Whether it is that weight, unchanged as far as can be known without a look at it."""
        return (
            self.weight() is weight
            and (self.version is None or self.version == weight._version)
            and self.address == weight.data_ptr()
            and (not self.given_back or _C.pages_unwritten(weight))
        )

    def hold(self, weight: Tensor, backward: bool) -> bool:
        """Whether that weight is what the panels say, by a look at it where that is not known."""
        if self.given_back:
            return True
        rows = weight if self.rows_together else rows_together(weight)
        return _C.lora_linear_panels_hold(rows, self.panels, backward)


# By id of the weight; panels live as long as the memory of their weights does. (torch's
# WeakTensorKeyDictionary makes an object for every look.)
_FOR_FORWARD: dict[int, _Packed] = {}
_FOR_BACKWARD: dict[int, _Packed] = {}

# Whether panels of a weight in bfloat16 are integers of 16 bits.
_INT16 = _C.lora_linear_multiplies_int16()


def panels_of(weight: Tensor, *, backward: bool) -> Tensor:
    """The panels of a weight [N, K], packed when it is first seen and whenever it has changed.

    A change in place is seen by torch's version counter; one that goes round the counter, through
    `.data`, is seen if it changes any of 64 elements spread over the weight.

    A weight that maps a file, as safetensors are read, is not resident beside its panels: whoever
    reads it, reads the file. Then any change is seen.
    """
    known, key = _FOR_BACKWARD if backward else _FOR_FORWARD, id(weight)
    packed = known.get(key)
    if packed is not None and packed.is_of(weight) and packed.hold(weight, backward):
        return packed.panels
    rows = rows_together(weight)
    int16 = _INT16 and weight.dtype == torch.bfloat16
    _forget_freed()
    numel = _C.lora_linear_panels_numel(weight.shape[0], weight.shape[1], backward, int16)
    panels = torch.empty(numel, dtype=torch.int16 if int16 else weight.dtype)
    _C.lora_linear_pack(rows, panels, backward, torch.get_num_threads())
    together = rows is weight
    given_back = together and _C.pages_give_back(weight)
    died = weakref.ref(weight, lambda _: known.pop(key, None))
    version = None if weight.is_inference() else weight._version
    known[key] = _Packed(died, weight.data_ptr(), version, panels, together, given_back)
    return panels


def _forget_freed() -> None:
    """Drop the panels of weights whose memory was given back, as FSDP2 does behind each layer."""
    for known in (_FOR_FORWARD, _FOR_BACKWARD):
        for key, packed in list(known.items()):
            weight = packed.weight()
            if weight is not None and weight.untyped_storage().nbytes() == 0:
                known.pop(key, None)


def rows_together(matrix: Tensor) -> Tensor:
    """The matrix itself if each of its rows lies together, else a copy."""
    if matrix.is_contiguous() or matrix.stride(-1) == 1 or matrix.shape[-1] == 1:
        return matrix
    return matrix.contiguous()


def output_alone(
    x: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    bias: Tensor | None,
) -> Tensor | None:
    """y [M, N] of few rows x [M, K] and a weight whose panels are known; else None.

    None too where a tensor does not lie as the kernel takes it, or does not fit.
    """
    packed = _FOR_FORWARD.get(id(weight))
    if packed is None or x.ndim != 2 or not packed.is_of(weight):
        return None
    y = x.new_empty(x.shape[0], weight.shape[0])
    look, threads = not packed.given_back, torch.get_num_threads()
    written = _C.lora_linear_forward_alone(
        x, weight, lora_a, lora_b, bias, scale, packed.panels, look, y, threads
    )
    return y if written else None


def _forward(
    x: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    bias: Tensor | None,
    drop: Drop = NO_DROP,
) -> Forward:
    M = x.shape[0]
    y = x.new_empty(M, weight.shape[0])
    xa = torch.empty(M, lora_a.shape[0], dtype=torch.float32)
    _C.lora_linear_forward(
        rows_together(x),
        (panels_of(weight, backward=False),),
        () if bias is None else (bias.contiguous(),),
        (y,),
        (M,),
        (rows_together(lora_a),),
        (rows_together(lora_b),),
        (scale,),
        xa,
        drop.share,
        (drop.seed,),
        torch.get_num_threads(),
    )
    return Forward(y, xa)


def _backward(
    dy: Tensor,
    x: Tensor | None,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    xa: Tensor,
    wanted: Sequence[bool],
    drop: Drop = NO_DROP,
) -> Gradients:
    M = dy.shape[0]
    dx = dy.new_empty(M, weight.shape[1]) if wanted[0] else None
    da = lora_a.new_empty(*lora_a.shape) if wanted[1] else None
    db = lora_b.new_empty(*lora_b.shape) if wanted[2] else None
    _C.lora_linear_backward(
        None if x is None else rows_together(x),
        (panels_of(weight, backward=True) if wanted[0] else None,),
        (rows_together(dy),),
        (M,),
        (rows_together(lora_a),),
        (rows_together(lora_b),),
        (scale,),
        xa,
        drop.share,
        (drop.seed,),
        dx,
        (da,),
        (db,),
        torch.get_num_threads(),
    )
    return Gradients(dx, da, db)


lora_linear = Variant(_forward, _backward)
