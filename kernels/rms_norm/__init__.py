"""Rows divided by their root mean square, times a weight; the maths is in README.md."""
