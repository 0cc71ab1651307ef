"""What a run says while it trains: to people, to files, to TensorBoard."""
