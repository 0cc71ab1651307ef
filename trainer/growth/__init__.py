"""Training data that changes between the starts of a run: which changes are fine, and waiting for the next."""
