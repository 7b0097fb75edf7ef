"""The training loop and the parts of a run: steps, checkpoints, directory, plots."""
