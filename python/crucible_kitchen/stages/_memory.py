"""How much memory this process takes."""

from __future__ import annotations

import resource
import sys


def memory_used() -> int:
    """The most memory that the process has held so far, in bytes.

    On a GPU it is the device's, as torch counts it; elsewhere it is what the system counts.
    """
    torch = sys.modules.get("torch")
    # A process that has not loaded torch has nothing on a device.
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return most if sys.platform == "darwin" else 1024 * most
