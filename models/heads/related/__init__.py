"""Heads of the systems that the AdaTT paper names beside its own baselines, and of later ones."""
