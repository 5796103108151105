"""What holds for every test."""

from __future__ import annotations

import os

# Before torch loads OpenMP: tests share the machine, and a thread that spins at a join stops others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
