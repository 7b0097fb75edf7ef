"""Checks of arguments, and the text of error messages."""
