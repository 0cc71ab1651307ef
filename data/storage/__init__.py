"""Paths as users write them, files that appear complete or not at all, and text that others may have written."""
