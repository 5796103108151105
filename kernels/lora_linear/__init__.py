"""A frozen linear layer plus its low-rank update; the maths is in README.md."""
