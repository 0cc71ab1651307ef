"""The network: features, multi-task heads, towers, losses. Knows nothing of files, ranks or checkpoints."""
