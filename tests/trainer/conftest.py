"""Datasets that the trainer's tests share; none of them writes to one."""

from pathlib import Path

import pytest

from tests.trainer.datasets import write_dataset
from tests.trainer.days import DAYS, write_day


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `train` (8,000 rows) and `test` (1,001 rows)."""
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder / "train", 8_000, seed=1)
    write_dataset(folder / "test", 1_001, seed=2)
    return folder


@pytest.fixture(scope="session")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `all` (a folder for each of `DAYS`) and `test` (100 rows)."""
    root = tmp_path_factory.mktemp("days")
    for day, rows in DAYS.items():
        write_day(root / "all", day, rows)
    write_day(root / "test", 30, 100)
    return root
