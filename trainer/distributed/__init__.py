"""The ranks of a run: how they find each other, what they agree on, and how they notice that one hangs or must stop."""
