"""Times calls against each other: warm, synchronized, interleaved; medians with their quartiles."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import torch

# What a sample is read from. Process time counts what all threads of this process computed, and
# not what they waited for: on a machine with other work it is the steadier of the two.
CLOCKS: Final[Mapping[str, Callable[[], float]]] = {
    "wall": time.perf_counter,
    "process": time.process_time,
}


@dataclass(frozen=True)
class Timing:
    """Seconds that each sample of a call took, in the order they were taken."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the samples took longer."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the samples took less than the first, a quarter more than the second."""
        if len(self.samples) == 1:
            return self.samples[0], self.samples[0]
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    def over(self, other: Timing) -> float:
        """The median, over the pairs taken side by side, of this time over the other."""
        return statistics.median(a / b for a, b in zip(self.samples, other.samples, strict=True))


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    device: str,
    samples: int = 20,
    warmup: int = 2,
    clock: str = "wall",
) -> dict[str, Timing]:
    """Time all calls, one sample of each in turn, so that a slow minute slows all of them.

    Args:
        calls: what to time, by name; every call leaves the next one the same work.
        device: ``cpu``, or ``cuda``, which is synchronized around each sample.
        samples: of each call.
        warmup: calls before the first sample (compilation, caches, clocks).
        clock: one of `CLOCKS`.
    """
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    now = CLOCKS[clock]
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(samples):
        for name, call in calls.items():
            wait()
            start = now()
            call()
            wait()
            seconds[name].append(now() - start)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def _nothing() -> None:
    """On the CPU a call has ended when it returns."""


def machine(device: str) -> dict[str, str]:
    """Where the figures come from: without it they mean nothing."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "triton", "crucible-kitchen")},
        "date": time.strftime("%Y-%m-%d"),
    }


def slug(device: str) -> str:
    """A device's name as a folder's: ``amd-epyc-7763``."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
