"""How far a kernel may be from the reference; tests and benchmarks hold it to the same."""

from __future__ import annotations

import torch

# norm(got - want) <= TOLERANCE[dtype of got] * norm(want), want in float64 from the same inputs.
TOLERANCE = {
    # Sums of float32 products: half a unit (6e-8) times the root of the longest sum (16 384).
    torch.float32: 8e-6,
    # A stored intermediate and the result, each rounded to nearest: 2 roundings of 2^-11, 2^-9.
    torch.float16: 2.0**-10,
    torch.bfloat16: 2.0**-8,
    # Sums of float64 over 1e6 terms at the most.
    torch.float64: 1e-13,
}
