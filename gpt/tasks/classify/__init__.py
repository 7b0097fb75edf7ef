"""The first fine-tuning task: a label for a text."""
