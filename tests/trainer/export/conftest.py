from pathlib import Path

import pytest

from tests.ranks import run_on_ranks
from tests.trainer.export.logs import config_of, write_log
from tests.trainer.training import train_or_explain


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the datasets `train` and `test`."""
    folder = tmp_path_factory.mktemp("exported")
    write_log(folder / "train", 800, seed=1)
    write_log(folder / "test", 300, seed=2)
    return folder


@pytest.fixture(scope="session")
def run(log: Path) -> Path:
    """A run on that log, trained on one rank."""
    config = config_of(log)
    assert run_on_ranks(1, train_or_explain, config) == [None]
    return Path(config.run.dir)
