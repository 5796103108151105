"""Where this package keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder of the cache; not created by asking.

    ``CRUCIBLE_CACHE`` if set, else ``crucible-kitchen`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    chosen = os.environ.get("CRUCIBLE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "crucible-kitchen"
