"""How fast the program is, beside the naive way and the limit of the machine, measured in the same run."""
