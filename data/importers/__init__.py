"""Importers of public datasets."""
