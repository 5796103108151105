"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Before torch loads OpenMP: a thread that spins at a join stops whatever shares the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A machine that does other work draws examples slowly, and that says nothing of our code.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")
