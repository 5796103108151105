"""``crucible doctor``: what this machine has, and which kernel would compute each op on it."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crucible_kitchen.data import cache_dir
from crucible_kitchen.errors import KernelError
from crucible_kitchen.report import versions

HELP = "show what this machine has: kernels, devices, versions"
_WIDTH = 80
# Enough to tell what a processor is good for; the whole list is some hundred words.
_FEATURES = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "neon", "asimd", "sve")


def add(parser: argparse.ArgumentParser) -> None:
    """It has no arguments."""


def main(arguments: argparse.Namespace) -> int:
    """Print what there is.

    Returns:
        1 where some op has no kernel for this machine's processor.
    """
    for title, lines in (
        ("versions", [f"{name:<18} {release}" for name, release in versions().items()]),
        ("processor", list(_processor())),
        ("devices", list(_devices())),
        ("cache", list(_cache())),
    ):
        print(title, *[f"  {line}" for line in lines], sep="\n", end="\n\n")
    print("kernels (the first that takes the arguments runs)")
    return int(not _kernels())


def _processor() -> Iterator[str]:
    import torch

    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in about.splitlines())
    }
    yield f"{'name':<18} {fields.get('model name') or platform.processor() or platform.machine()}"
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    found = [feature for feature in _FEATURES if feature in flags]
    yield f"{'instructions':<18} {', '.join(found) or 'unknown'}"
    yield f"{'cores':<18} {os.cpu_count()}"
    yield f"{'torch threads':<18} {torch.get_num_threads()}"
    # Set by `crucible`: see cli.main. Python code that wants it sets it before torch is imported.
    yield f"{'OpenMP threads':<18} wait policy {os.environ.get('OMP_WAIT_POLICY', 'not set')}"
    extension = _extension()
    if isinstance(extension, str):
        yield f"{'our kernels':<18} none: {extension}"
        return
    yield f"{'our kernels':<18} {extension.isa()}, threads of {extension.thread_runtime()}"


def _extension() -> Any:
    """The compiled half, or why there is none."""
    try:
        return importlib.import_module("crucible_kitchen._C")
    except ImportError as error:
        return str(error)


def _devices() -> Iterator[str]:
    import torch

    devices = torch.cuda.device_count()
    for index in range(devices):
        about = torch.cuda.get_device_properties(index)
        yield (
            f"{f'cuda:{index}':<18} {about.name}, {about.total_memory / 2**30:.0f} GiB, "
            f"compute capability {about.major}.{about.minor}"
        )
    if not devices:
        yield f"{'cuda':<18} none: {_why_no_device()}"
    extension = _extension()
    if not isinstance(extension, str):
        # That their library opens says nothing of a device: it is built to open without a driver.
        ready = "ready" if devices else "built, with no device to run on"
        yield f"{'cuda kernels':<18} {extension.why_no_cuda() or ready}"


def _why_no_device() -> str:
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} finds no NVIDIA device or driver"


def _cache() -> Iterator[str]:
    folder = cache_dir()
    yield str(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    yield f"{size / 2**20:,.0f} MiB" if folder.is_dir() else "not made yet"


def _kernels() -> bool:
    """Print the table of each op; whether all of them can run."""
    import torch

    from crucible_kitchen import ops

    device = "cuda" if torch.cuda.is_available() else "cpu"
    able = True
    for name, op in ops.OPS.items():
        cases = importlib.import_module(f"crucible_kitchen.kernels.{name}.cases")
        size = cases.SIZES["odd"]
        options: dict[str, Any] = getattr(cases, "options", lambda size: {})(size)
        try:
            verdict = op.explain(*cases.inputs(size, torch.float32, device), **options)
        except KernelError as error:
            print(textwrap.indent(str(error), "  "))
            able = False
            continue
        able = able and verdict.chosen is not None
        for line in str(verdict).splitlines():
            indent = "  " + " " * (len(line) - len(line.lstrip()))
            print(
                textwrap.fill(
                    line.strip(), _WIDTH, initial_indent=indent, subsequent_indent=indent + " " * 10
                )
            )
    return able
