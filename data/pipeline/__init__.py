"""From row groups to batches: planning, reading and decoding, gathering."""
