"""Census-Income (KDD) as a dataset with the three tasks of the AdaTT paper, from Parquet files of its nominal columns.

    python -m experiments.census SRC datasets/census

SRC holds train_nominal.parquet and test_nominal.parquet: the official splits, every column text. The columns that
define a label are left out of the features.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.storage.writer import staged_directory, write_parquet

COLLEGE = ("Bachelors", "Masters", "Prof-school", "Doctorate")
DEFINE_LABELS = ("income_50k", "marital_stat", "education")


def with_labels(table: pa.Table) -> pa.Table:
    """Nominal columns as text, and the labels income, never_married and college as 0 or 1."""
    text = {name: table[name].cast(pa.string()) for name in table.column_names}
    labels = {
        "income": pc.starts_with(text["income_50k"], "50000+"),
        "never_married": pc.starts_with(text["marital_stat"], "Never"),
        "college": pc.match_substring_regex(text["education"], f"^({'|'.join(COLLEGE)})"),
    }
    features = {name: column for name, column in text.items() if name not in DEFINE_LABELS}
    return pa.table(features | {name: label.cast(pa.int8()) for name, label in labels.items()})


def main(source: str, out: str) -> None:
    """Writes OUT/train and OUT/test."""
    with staged_directory(Path(out)) as folder:
        for split in ("train", "test"):
            table = with_labels(pq.read_table(Path(source) / f"{split}_nominal.parquet"))
            write_parquet(folder / split / "part-00000.parquet", table.schema, [table])


if __name__ == "__main__":
    main(*sys.argv[1:])
