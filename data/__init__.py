"""Parquet datasets: importers, synthesis, manifest, global order, decoding to batches."""
