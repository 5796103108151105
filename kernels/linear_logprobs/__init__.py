"""Log-probabilities of target tokens under a linear head, without the logits."""
