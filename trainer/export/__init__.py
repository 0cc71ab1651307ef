"""A trained run as a folder that serves it without this program."""
