"""What a run leaves behind for people: its folder, and a page that stands alone."""

from .asked import asked, asked_before, config_of, identity
from .folder import CONFIG, EVENTS, REPORT, SAMPLES, Run, read_run, write_config
from .job import Job
from .page import picture, render, write, write_after
from .timings import read_timings
from .versions import versions

__all__ = [
    "CONFIG",
    "EVENTS",
    "REPORT",
    "SAMPLES",
    "Job",
    "Run",
    "asked",
    "asked_before",
    "config_of",
    "identity",
    "picture",
    "read_run",
    "read_timings",
    "render",
    "versions",
    "write",
    "write_after",
    "write_config",
]
