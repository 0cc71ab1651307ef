"""`python -m trainer` is `adatt`, so that torchrun can start it."""

from trainer.cli import main

main()
