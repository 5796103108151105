"""What a run leaves behind for people: its folder, and a page that stands alone."""

from .folder import CONFIG, EVENTS, REPORT, SAMPLES, Run, read_run, write_config
from .page import render, write
from .timings import read_timings
from .versions import versions

__all__ = [
    "CONFIG",
    "EVENTS",
    "REPORT",
    "SAMPLES",
    "Run",
    "read_run",
    "read_timings",
    "render",
    "versions",
    "write",
    "write_config",
]
