"""What is asked of finished runs. Nothing here is reached by training."""
