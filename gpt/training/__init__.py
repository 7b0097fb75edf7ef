"""The training loop and what belongs to a run: steps, checkpoints, directory, plots."""
