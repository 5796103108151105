"""How near a call comes to what the machine can do: measured peaks, counted work."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .timing import Timing, interleaved


@dataclass(frozen=True)
class Work:
    """What an op must do at least: arithmetic, and traffic between memory and the chip."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Peak:
    """What this machine does at best, measured: per second."""

    flops: float
    bytes: float

    def share(self, work: Work, seconds: float) -> float:
        """The shortest time the work could take, over the time it took; 1 is the roof."""
        return max(work.flops / self.flops, work.bytes / self.bytes) / seconds

    def __str__(self) -> str:
        return f"{self.flops / 1e9:,.0f} GFLOP/s, {self.bytes / 1e9:,.1f} GB/s"


def measure(device: str, dtype: torch.dtype, *, clock: str = "wall", samples: int = 10) -> Peak:
    """The machine's peaks: torch's matrix product, and a pass in place over uncached memory.

    The best sample counts: a peak is what the machine can do. A processor without bfloat16
    arithmetic computes faster in float32, and then that is its roof.
    """
    sides, count = ((8192,), 2**27) if device == "cuda" else ((512, 1024), 2**24)
    calls = {}
    for side in sides:
        for kind in dict.fromkeys((torch.float32, dtype)):
            if kind == torch.float32 or device == "cuda" or _computes(kind):
                pair = torch.randn(2, side, side, device=device).to(kind)
                calls[side, kind] = lambda pair=pair: pair[0] @ pair[1]
    products = interleaved(
        {str(key): call for key, call in calls.items()}, device=device, samples=samples, clock=clock
    )
    memory = torch.zeros(count, device=device)
    passes = interleaved({"pass": memory.neg_}, device=device, samples=samples, clock=clock)
    return Peak(
        flops=max(2 * side**3 / _best(products[str((side, kind))]) for side, kind in calls),
        bytes=8 * count / _best(passes["pass"]),
    )


def _best(timing: Timing) -> float:
    return min(timing.samples)


def _computes(dtype: torch.dtype) -> bool:
    """Whether this processor has products in the dtype; without them torch takes seconds."""
    return dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()
