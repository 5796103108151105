"""Rotary position embedding; the maths is in README.md."""
