"""Which releases a run was made with."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Final

PACKAGES: Final = ("crucible-kitchen", "torch", "triton", "transformers", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Release of Python and of each package that is installed, without importing any of them."""
    found = {"python": platform.python_version(), "platform": _platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _platform() -> str:
    # Not `platform.platform()`: that names the kernel's build, which says nothing about a result.
    return f"{sys.platform} {platform.machine()}"
