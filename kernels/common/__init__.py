"""What two ops already share, and nothing else."""
