"""`adatt compare`: which head is better, and how sure that is."""
