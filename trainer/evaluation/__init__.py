"""What is measured on a test set: metrics, what they are computed from, and what is kept of them."""
