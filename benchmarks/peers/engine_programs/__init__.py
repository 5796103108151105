"""One small program in the form of each engine: a chain, a loop, a journal, three chains at once.

A module an engine; each says in `ENGINE` what it can express.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Run = Callable[[], int]
"""What is timed; its number is checked."""
Program = Callable[[], Run]
"""Makes a run ready: what an engine needs anew for each is not timed."""

CHAINS_MS = ((10, 2, 2, 2), (2, 10, 2, 2), (2, 2, 10, 2))
"""How long the stages of three chains wait, milliseconds.

Each takes what the one before it in its chain gave, so the least all can take is one chain; who
waits for all that began together takes two.
"""


class Engine(NamedTuple):
    """An engine and its programs; None is one that it cannot express.

    Args:
        name: as people call it.
        package: whose version is shown.
        module: whose import is timed.
        chain: so many stages, one after the other, written one by one; each adds one.
        loop: one stage, so many times.
        journal: the loop, where each iteration is written into a new folder inside the one given
            before the next begins.
        chains: those of `CHAINS_MS`, one written after the other; gives the number of stages.
    """

    name: str
    package: str
    module: str
    chain: Callable[[int], Program]
    loop: Callable[[int], Program] | None = None
    journal: Callable[[int, Path], Program] | None = None
    chains: Callable[[], Program] | None = None

    @property
    def version(self) -> str | None:
        """Of the package; None where it is not installed."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None
