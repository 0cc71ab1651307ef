"""The search for hyper-parameters: `adatt tune`, and the grids of studies."""
