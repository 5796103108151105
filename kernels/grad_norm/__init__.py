"""The Euclidean norm of many tensors taken as one vector; the maths is in README.md."""
