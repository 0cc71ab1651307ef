"""The synthetic short-video log: a hidden world, its outcomes, and the best that a model can reach on them."""
