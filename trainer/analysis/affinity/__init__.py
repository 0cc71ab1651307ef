"""`adatt affinity`: which layers tasks should share, by their single-task networks."""
