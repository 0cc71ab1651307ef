"""Loads compiled kernels when it is imported: the fork server does so once, and every process of a test has them."""

import gc
import logging
import tempfile
from contextlib import closing
from itertools import islice
from pathlib import Path

from data.discovery.dataset import read_manifest
from data.statistics import measure
from data.stream import stream
from tests.trainer.datasets import make_config, write_dataset
from trainer.datasets import train_reading


def _use_all() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "train", 200, seed=1)
        config = make_config(Path(folder), data={"weight": "weight"}, train={"samples": "all"})
        reading = train_reading(config, read_manifest(str(Path(folder) / "train"), cache=None))
        measure(reading)
        with closing(stream(reading, range(reading.lanes), 0)) as batches:
            list(islice(batches, 2))


logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # as the program does
_use_all()
gc.freeze()  # what has been imported is not looked through for garbage again by every process
