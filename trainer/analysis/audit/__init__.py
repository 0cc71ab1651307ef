"""`adatt audit`: which rows were trained, how often, by the records of a run."""
