"""Data: texts and records from files, downloads, and results on disk."""
