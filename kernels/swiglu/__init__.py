"""silu(gate) * up, elementwise; the maths is in README.md."""
