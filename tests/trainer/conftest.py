"""A dataset that the trainer's tests share; none of them writes to it."""

from pathlib import Path

import pytest

from tests.trainer.datasets import write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `train` (8,000 rows) and `test` (1,001 rows)."""
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder / "train", 8_000, seed=1)
    write_dataset(folder / "test", 1_001, seed=2)
    return folder
