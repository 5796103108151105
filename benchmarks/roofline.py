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
    side, count = (8192, 2**27) if device == "cuda" else (1536, 2**24)
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    memory = torch.zeros(count, device=device)
    taken = interleaved({"product": lambda: a @ b, "pass": memory.neg_}, device=device, samples=10)
    # The best sample: a peak is what the machine can do, not what it does on average.
    return Peak(flops=2 * side**3 / taken["product"].low, bytes=8 * count / taken["pass"].low)
