"""Studies that docs/results.md reports, each a script to run again."""
