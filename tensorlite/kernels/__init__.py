"""What makes the hot ops fast: one module per device, array functions only, no graph. fused.py joins them to it."""
