"""Many trainings as one piece of work: the studies of `experiments/`, and the search for hyper-parameters."""
