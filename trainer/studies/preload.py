"""Imports what trainings need: the fork server does so once, and every training that it starts has it."""

import gc
import logging

import trainer.train  # noqa: F401

logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # as the program does
gc.freeze()  # what has been imported is not looked through for garbage again by every process
