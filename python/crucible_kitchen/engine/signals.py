"""SIGTERM, which ends a run with its clean-up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

TERMINATED: Final = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM has ended, as a shell tells it."""


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise `SystemExit` while the block runs.

    That is what batch systems send first, and by default Python ends at once, without clean-up. A
    handler that is there already is left alone, and so is every thread but the main one.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
