"""What is in a dataset: one pass over its rows, in constant memory."""
