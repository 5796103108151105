"""What a run leaves behind for people: its folder, and a page that stands alone."""

from .folder import CONFIG, EVENTS, REPORT, SAMPLES, Run, read_run, write_config
from .page import render, write
from .versions import versions

__all__ = [
    "CONFIG",
    "EVENTS",
    "REPORT",
    "SAMPLES",
    "Run",
    "read_run",
    "render",
    "versions",
    "write",
    "write_config",
]
