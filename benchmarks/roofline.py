"""How near a call comes to what the machine can do: measured peaks, counted work."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .timing import interleaved


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


def measure(device: str, dtype: torch.dtype) -> Peak:
    """The machine's peaks: torch's matrix product, and a pass in place over uncached memory."""
    side, count = (8192, 2**27) if device == "cuda" else (512, 2**24)
    a, b = torch.randn(2, side, side, device=device)
    low_a, low_b = a.to(dtype), b.to(dtype)
    memory = torch.zeros(count, device=device)
    calls = {
        "float32 product": lambda: a @ b,
        "product": lambda: low_a @ low_b,
        "pass": memory.neg_,
    }
    taken = interleaved(calls, device=device, samples=10, warmup=1)
    # The best samples: a peak is what the machine can do. A processor without bfloat16 arithmetic
    # computes faster in float32, and then that is its roof.
    fastest = min(taken["float32 product"].low, taken["product"].low)
    return Peak(flops=2 * side**3 / fastest, bytes=8 * count / taken["pass"].low)
