"""What holds for every test."""

from __future__ import annotations

import os

# Before torch loads OpenMP: a thread that spins at a join stops whatever shares the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
