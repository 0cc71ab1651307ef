"""Tables of float16: the same algorithm on any ranks, kept by checkpoints, taken from and by tables of float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.sharding.test_plan import table, tables_config, train_some
from tests.trainer.test_warm_start import USER, USER_STATE, begin, parts_of, read_weights
from tests.trainer.training import train_or_explain
from trainer.config.run_config import Config
from trainer.run.jsonl import read_records

ROWS = {"a": 3, "b": 1000, "c": 50, "d": 64}


def halves(shardings: dict[str, str]) -> Config:
    """Tables of both types beside each other."""
    tables = [table(name, rows, 8) | {"sharding": shardings.get(name, "auto")} for name, rows in ROWS.items()]
    return tables_config([entry | {"dtype": "float32" if entry["name"] == "d" else "float16"} for entry in tables])


@pytest.mark.parametrize("size", [2, 4])
def test_tables_of_both_types_train_alike_on_any_ranks(size: int) -> None:
    """But for a last bit of float16, where sums in another order lie on the other side of the middle."""
    config = halves({"a": "row_wise", "b": "row_wise", "c": "table_wise"})
    one, many = (run_on_ranks(ranks, train_some, [config])[0][0] for ranks in (1, size))
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-5)
    for name, expected in one.tables.items():
        np.testing.assert_allclose(many.tables[name], expected, rtol=1e-3, atol=1e-5)
        assert (many.tables[name] == expected).mean() > 0.9
        is_half = np.array_equal(expected, expected.astype(np.float16))
        assert is_half == (".d." not in name)
    for name, expected in one.state.items():
        np.testing.assert_allclose(many.state[name], expected, rtol=1e-4)


def config_of(dataset: Path, folder: Path, samples: int, dtype: str, **more: Any) -> Config:
    tables = [{"name": "user", "rows": 50, "dim": 8, "dtype": dtype}, {"name": "video", "rows": 64, "dim": 4}]
    return make_config(dataset, run={"dir": str(folder)}, train={"samples": samples}, tables=tables, **more)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_keeps_the_type_and_is_resumed_to_the_bit(dataset: Path, tmp_path: Path, ranks: int) -> None:
    for folder, samples in (("whole", 640), ("parts", 320), ("parts", 640)):
        config = config_of(dataset, tmp_path / folder, samples, "float16")
        assert run_on_ranks(ranks, train_or_explain, config) == [None] * ranks
    whole, parts = ([r["loss"] for r in read_records(tmp_path / name / "train.jsonl")] for name in ("whole", "parts"))
    assert parts == whole
    before, now = (read_weights(tmp_path / name, 640) for name in ("whole", "parts"))
    assert before[USER].dtype == torch.float16
    assert before[USER_STATE].dtype == torch.float32
    assert [name for name in before if not torch.equal(before[name], now[name])] == []

    told = run_on_ranks(ranks, train_or_explain, config_of(dataset, tmp_path / "parts", 960, "float32"))
    assert told == [told[0]] * ranks
    assert "tables.0.dtype was 'float16', now 'float32'" in told[0]


@pytest.mark.parametrize(("there", "here"), [("float32", "float16"), ("float16", "float32")])
def test_a_run_begins_with_tables_of_another_type(dataset: Path, tmp_path: Path, there: str, here: str) -> None:
    assert run_on_ranks(1, train_or_explain, config_of(dataset, tmp_path / "source", 128, there)) == [None]
    init = {"from": str(tmp_path / "source")}
    run_on_ranks(2, begin, config_of(dataset, tmp_path / "run", 64, here, init=init))
    before, now = read_weights(tmp_path / "source", 128), read_weights(tmp_path / "run", 0)
    assert now[USER].dtype == getattr(torch, here)
    assert torch.equal(now[USER], before[USER].to(now[USER].dtype))
    assert torch.equal(now[USER_STATE], before[USER_STATE])
    assert parts_of(tmp_path / "run")["table user"] == ("all rows", f"{there} in the source, {here} here")
