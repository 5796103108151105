"""Causal attention over sequences laid end to end; the maths is in README.md."""
