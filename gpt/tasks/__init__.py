"""The tasks of a GPT: pretraining, classification, instructions; and their evaluation."""
