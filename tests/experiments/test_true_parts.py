"""The parts are those of the log: a model that holds so much of each is found to."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.synthetic.dataset import synthesise
from experiments.true_parts import tables


def test_what_is_held_of_each_part(tmp_path: Path) -> None:
    synthesise(tmp_path / "log", 3_000, 3_000, "engagement-consumption", processes=1)
    (test,) = (tmp_path / "log" / "test").glob("*.parquet")
    oracle = pq.read_table(test, columns=["oracle_click", "oracle_like"])
    for name, factor in {"all": 1.0, "half": 0.5}.items():
        click = oracle["oracle_click"].to_numpy().astype(np.float64)
        odds = (click / (1 - click)) ** factor
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"click": odds / (1 + odds)}), tmp_path / name / "part-0.parquet")

    click, like = tables(tmp_path / "log", [tmp_path / "all", tmp_path / "half"])
    assert click.rows[1] == ["all, all rows", *["1.00"] * 6, "0.00"]
    assert click.rows[2] == ["half, all rows", *["0.50"] * 6, "0.00"]
    assert len(like.rows) == 1  # of which nothing was predicted
