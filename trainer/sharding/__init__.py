"""Which rank holds which embedding table, with which optimizer and which initial weights."""
