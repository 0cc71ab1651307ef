"""The folder of a run: its paths, its records (one schema for each file), and what they say of the starts."""
