"""A training step: what all ranks find out about it before any weight changes."""
