"""What holds for every test."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# Before torch loads OpenMP: a thread that spins at a join stops whatever shares the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell's jobs in the background ignore Ctrl-C, and so would all that tests start to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that does other work draws examples slowly, and that says nothing of our code.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")
