"""The command line: a file for each group of commands, with the tables that they print."""
