"""One process of the program: its signals, its output, and how it ends."""
