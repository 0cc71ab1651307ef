"""What a run reports while it trains: to people, to files, to TensorBoard."""
