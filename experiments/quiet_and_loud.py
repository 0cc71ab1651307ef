"""Two tasks that pull one number in opposite directions, one a hundred times as strongly: what balancing can mend.

    python -m experiments.quiet_and_loud datasets/conflict

Each id has two hidden numbers p and q. Labels are `quiet` = p and `loud` = -0.6 p + 0.8 q, each with noise of half its
deviation, and the config gives loud a weight of 100. A model that keeps one number of each id has to share it out. Its
mean squared errors over the variance of the labels, at best:

    what it keeps        quiet   loud
    loud itself            .71    .20     what weights of 1 and 100 lead to
    the best for both      .36    .36     the remedy: weights of 1 and 1
    quiet itself           .20    .71
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

IDS, NOISE = 2_000, 0.5


def write_rows(path: Path, num_rows: int, random: np.random.Generator) -> None:
    """One Parquet file; the ids' numbers are the same in each."""
    hidden_I2 = np.random.default_rng(0).standard_normal((IDS, 2))
    id_B = random.integers(IDS, size=num_rows)
    oracle = {"quiet": hidden_I2[id_B, 0], "loud": hidden_I2[id_B] @ [-0.6, 0.8]}
    columns = {"id": id_B}
    for name, mean_B in oracle.items():
        columns[name] = (mean_B + NOISE * random.standard_normal(num_rows)).astype(np.float32)
        columns[f"oracle_{name}"] = mean_B.astype(np.float32)

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=10_000)


def main() -> None:
    """OUT/train and OUT/test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=500_000)
    arguments = parser.parse_args()
    write_rows(arguments.out / "train" / "part-0.parquet", arguments.samples, np.random.default_rng(1))
    write_rows(arguments.out / "test" / "part-0.parquet", arguments.samples // 10, np.random.default_rng(2))


if __name__ == "__main__":
    main()
