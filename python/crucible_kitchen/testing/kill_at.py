"""`kill_at`: end the process as `kill -9` does, at a stage of one's choice."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from types import FrameType

from crucible_kitchen.engine import Event, stages
from crucible_kitchen.errors import ConfigError

_WHEN = ("before", "after")


class kill_at:  # noqa: N801 - reads as a function: handlers=[kill_at("sft/epochs[0]/*/optim_step")]
    """A handler that kills its own process with SIGKILL: nothing is flushed, nothing cleans up.

    Run it in a process made for that, and resume the run in another one.

    Args:
        path_glob: id of a stage, such as ``sft/epochs[0]/batches[3]/optim_step``; ``*`` stands for
            anything and ``?`` for one letter, brackets for themselves.
        when: ``before`` the first such stage does its work, or ``after`` it, once a checkpoint
            that was due has been written.
    """

    def __init__(self, path_glob: str, when: str = "before") -> None:
        if when not in _WHEN:
            raise ConfigError(f'kill_at: when must be "before" or "after", got {when!r}')
        text = re.escape(path_glob).replace(r"\*", ".*").replace(r"\?", ".")
        self._matches = re.compile(text, re.DOTALL).fullmatch
        self._when = when
        self._ended: tuple[int, FrameType] | None = None

    def __call__(self, event: Event) -> None:
        if self._ended is not None and event.kind != "metric" and _is_behind(*self._ended):
            os.kill(os.getpid(), signal.SIGKILL)
        if not self._matches(event.path):
            return
        if self._when == "before" and event.kind == "stage.start":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._when == "after" and event.kind == "stage.stop" and self._ended is None:
            # The journal is written after this event, before this thread tells of the next.
            self._ended = threading.get_ident(), _of_the_stages(sys._getframe())


def _of_the_stages(frame: FrameType) -> FrameType:
    """The frame that runs stages and then writes the journal, above one that tells of it."""
    around = frame
    while around.f_code.co_filename != stages.__file__:
        assert around.f_back is not None
        around = around.f_back
    return around


def _is_behind(thread: int, frame: FrameType) -> bool:
    """Whether a thread has come to its next event, which is now, or back from a frame."""
    if thread == threading.get_ident():
        return True
    inner = sys._current_frames().get(thread)
    while inner is not None and inner is not frame:
        inner = inner.f_back
    return inner is None
