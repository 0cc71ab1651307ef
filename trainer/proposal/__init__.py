"""A first config for a dataset, from what a pass over it has seen: `adatt init`."""
