"""Which files belong to a dataset, in which order of time, and what they say of themselves."""
