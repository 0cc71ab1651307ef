"""Starts the trainer from outside: on this machine, in an image, on a scheduler."""
