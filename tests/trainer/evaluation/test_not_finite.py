"""NaN and ±inf in a dense column count as missing, with a warning: by training, evaluation and prediction."""

import contextlib
import io
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config, write_dataset
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.evaluation.evaluate_run import evaluate_run
from trainer.prediction.predict import predict_run
from trainer.train import train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """600 rows in row groups of 97; `age` is NaN in rows 60, …, 149 of each file, infinite in the one after them."""
    for name, rows in (("train", 600), ("test", 101)):
        write_dataset(tmp_path / name, rows, seed=1)
        for path in (tmp_path / name).iterdir():
            spoil(path)
    return tmp_path


def spoil(path: Path) -> None:
    table = pq.read_table(path)
    ages = [math.nan if 60 <= row < 150 else age for row, age in enumerate(table["age"].to_pylist())]
    ages[-1] = -math.inf
    index = table.schema.get_field_index("age")
    pq.write_table(table.set_column(index, "age", pa.array(ages, pa.float32())), path, row_group_size=97)


def outputs(world: World, config: Config, out: str) -> list[str]:
    """What train, evaluate and predict print, joined to a line each."""
    found = []
    for what in (
        lambda: train(config, world),
        lambda: evaluate_run(config.run.dir, "latest", None, world),
        lambda: predict_run(config.run.dir, "latest", config.data.train, out, "", world),
    ):
        with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(text):
            what()
        found.append(" ".join(text.getvalue().split()))
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_numbers_that_are_not_finite_are_a_warning(folder: Path, ranks: int) -> None:
    config = make_config(folder, train={"samples": 576}, data={"order": "stored"})
    results = run_on_ranks(ranks, outputs, config, str(folder / "out"))
    assert not any("NaN" in text for texts in results[1:] for text in texts)
    trained, evaluated, predicted = results[0]
    warning = "warning: dense column 'age' holds NaN or ±inf in {} rows {}; they count as missing"
    of_test = warning.format(2, "of the test set")
    assert of_test in trained
    assert of_test in evaluated
    assert warning.format(182, "of the input") in predicted
    assert trained.count("read for training so far; they count as missing") == 1


def test_there_is_no_warning_if_all_is_well(dataset: Path, tmp_path: Path) -> None:
    data = {"train": str(dataset / "train"), "test": str(dataset / "test")}
    config = make_config(tmp_path, data=data, train={"samples": 256})
    results = run_on_ranks(1, outputs, config, str(tmp_path / "out"))
    assert not any("NaN" in text for text in results[0])
