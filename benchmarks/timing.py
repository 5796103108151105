"""Times calls against each other: warm, synchronized, interleaved; medians with their quartiles."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds a call takes: the median of the samples and the quartiles around it."""

    median: float
    low: float
    high: float
    samples: int


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, device: str, samples: int = 50, warmup: int = 3
) -> dict[str, Timing]:
    """Time all calls, one sample of each in turn, so that a slow minute slows all of them.

    Args:
        calls: what to time, by name; every call leaves the next one the same work.
        device: ``cpu``, or ``cuda``, which is synchronized around each sample.
        samples: of each call.
        warmup: calls before the first sample (compilation, caches, clocks).
    """
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(samples):
        for name, call in calls.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return {name: _timing(taken) for name, taken in seconds.items()}


def _nothing() -> None:
    """On the CPU a call has ended when it returns."""


def _timing(seconds: list[float]) -> Timing:
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0], 1)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, low, high, len(seconds))


def machine(device: str) -> dict[str, str]:
    """Where the figures come from: without it they mean nothing."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "triton", "crucible-kitchen")},
    }


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
