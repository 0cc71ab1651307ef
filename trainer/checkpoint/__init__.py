"""What a run saves of its tensors, and how that is read again."""
