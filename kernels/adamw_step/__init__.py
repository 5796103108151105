"""Decoupled AdamW over many tensors in one call; the maths is in README.md."""
