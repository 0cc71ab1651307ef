"""Joins data and models: configuration, sharding, the loop, evaluation, checkpoints, reports."""
