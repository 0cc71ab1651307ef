"""A run that begins with another's weights: `[init]` of its config."""
