"""From Arrow columns to arrays: which types are of use, and a check of every value."""
