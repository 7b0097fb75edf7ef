"""What a GPT is trained for: pretraining, classification, instructions; and how each is evaluated."""
