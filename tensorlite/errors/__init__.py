"""Checks of arguments, and the text of their errors."""
