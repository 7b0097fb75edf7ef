"""What makes the hot ops fast: one module per device, array functions only, no graph. functional.py joins them to it."""
