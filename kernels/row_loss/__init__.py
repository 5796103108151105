"""The loss of each row of a few numbers, with its slopes; the maths is in README.md."""
