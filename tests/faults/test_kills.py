"""A run that is killed again and again ends as if it had not been: the short form of `make faults`."""

from pathlib import Path

import pytest

from tests.faults.kills import PHASES, fault_config, final_tensors, finish, rows_by_trace, train_through_kills
from tests.trainer.datasets import write_dataset

ROWS = 8_000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write_dataset(folder / "train", ROWS, seed=1)
    write_dataset(folder / "test", 8_001, seed=2)
    return folder


def test_same_ranks_end_bit_identical(dataset: Path, tmp_path: Path) -> None:
    config, whole = (fault_config(dataset, tmp_path / name) for name in ("killed", "whole"))
    kills = train_through_kills(config, [2] * len(PHASES), list(PHASES), seed=1)
    assert sum(kill.died for kill in kills) >= 3
    finish(config, 2)
    finish(whole, 2)
    assert final_tensors(config) == final_tensors(whole)
    assert rows_by_trace(config) == {1: ROWS}


def test_changing_ranks_lose_and_repeat_no_row(dataset: Path, tmp_path: Path) -> None:
    config = fault_config(dataset, tmp_path / "run")
    kills = train_through_kills(config, [4, 1, 2], ["training", "save", "evaluation"], seed=2)
    assert sum(kill.died for kill in kills) >= 2
    finish(config, 4)
    assert rows_by_trace(config) == {1: ROWS}
