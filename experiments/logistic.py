"""Training with a config beside logistic regression on the same columns: what the defaults are chosen and judged by.

    python -m experiments.logistic experiments/defaults/kuairand.toml --seeds 17 18 19

Prints NE and AUC of every binary task (of a regression task MSE over the label's variance) on the test set, of
scikit-learn's logistic (ridge) regression for several penalties and of the trainer for each seed. Ids are one-hot
columns, a list one column for each of its ids; numbers are standardised after the config's transform, and 0 where they
are missing.

Shapes: R rows, C columns of the regression.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, roc_auc_score

from data.columns.numbers import read_exactly, transform_numbers
from models.losses import entropy
from models.tasks import TaskConfig
from trainer.config.load import load_config
from trainer.config.run_config import Config
from trainer.run.jsonl import read_records

MOST_ITERATIONS = 300


@dataclass(frozen=True)
class Score:
    """On the test set."""

    error: float
    """NE, or MSE over the variance of the label."""
    auc: float | None = None

    def __str__(self) -> str:
        return f"{self.error:.4f}" + ("" if self.auc is None else f" ({self.auc:.4f})")


def main(arguments: Sequence[str]) -> None:
    """Fits, trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--seeds", nargs="*", type=int, default=[17])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config")
    parser.add_argument("--penalties", nargs="*", type=float, default=[1.0, 0.1], metavar="C", help="none: train only")
    options = parser.parse_args(arguments)

    config = load_config(options.config, options.set)
    columns = regressions(config, options.penalties) if options.penalties else {}
    columns |= {f"seed {seed}": train_seed(options.config, options.set, seed) for seed in options.seeds}
    print_table([task.name for task in config.tasks], columns)


def regressions(config: Config, penalties: list[float]) -> dict[str, dict[str, Score]]:
    """Scores by task for each penalty; scikit-learn's own is C = 1."""
    train, test = (pq.read_table(uri) for uri in (config.data.train, config.data.test))
    train_RC, test_RC = design_matrices(config, train, test)

    found: dict[str, dict[str, Score]] = {}
    for penalty in penalties:
        scores = {}
        for task in config.tasks:
            train_R, test_R = (table[task.label].to_numpy().astype(np.float64) for table in (train, test))
            known_R, tested_R = ~np.isnan(train_R), ~np.isnan(test_R)
            predicted_R = _fit(task, train_RC[known_R], train_R[known_R], penalty)(test_RC[tested_R])
            scores[task.name] = score(task, predicted_R, test_R[tested_R])
            sys.stderr.write(f"C = {penalty:g}, {task.name}: {scores[task.name]}\n")
        found[f"regression, C = {penalty:g}"] = scores
    return found


def _fit(task: TaskConfig, train_RC: Any, labels_R: Any, penalty: float) -> Any:
    if not task.binary:
        return Ridge(alpha=1 / penalty).fit(train_RC, labels_R).predict
    model = LogisticRegression(C=penalty, max_iter=MOST_ITERATIONS).fit(train_RC, labels_R)
    return lambda test_RC: model.predict_proba(test_RC)[:, 1]


def score(task: TaskConfig, predicted_R: Any, labels_R: Any) -> Score:
    """NE and AUC, or normalised MSE."""
    if not task.binary:
        return Score(float(np.square(predicted_R - labels_R).mean() / labels_R.var()))
    normalized_entropy = log_loss(labels_R, predicted_R) / entropy(labels_R.mean())
    return Score(float(normalized_entropy), float(roc_auc_score(labels_R, predicted_R)))


def design_matrices(config: Config, train: pa.Table, test: pa.Table) -> list[Any]:
    """One sparse matrix for each table, with the same columns."""
    parts: list[list[Any]] = [[], []]
    for feature in config.features.sparse:
        columns = [table[feature.column].to_pylist() for table in (train, test)]
        rows_of = [[value if isinstance(value, list) else [value] for value in column] for column in columns]
        places = {value: place for place, value in enumerate(dict.fromkeys(v for ids in rows_of[0] for v in ids))}
        for part, rows in zip(parts, rows_of, strict=True):
            part.append(_one_hot(rows, places))

    for dense in config.features.dense:
        columns = [read_exactly(table[dense.column].combine_chunks()) for table in (train, test)]
        numbers = [transform_numbers(values_R, dense.transform or "none") for values_R in columns]
        mean, deviation = np.nanmean(numbers[0]), np.nanstd(numbers[0]) or 1.0
        for part, values_R in zip(parts, numbers, strict=True):
            part.append(sparse.csr_matrix(np.nan_to_num((values_R - mean) / deviation)[:, None]))

    return [sparse.hstack(part).tocsr() for part in parts]


def _one_hot(rows: list[list[Any]], places: dict[Any, int]) -> Any:
    """1 where a row has an id; ids that the training rows do not have are left out."""
    entries = [(row, places[value]) for row, ids in enumerate(rows) for value in ids if value in places]
    row, column = np.array(entries, np.int64).reshape(-1, 2).T
    return sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=(len(rows), len(places)))


def train_seed(config: str, changes: list[str], seed: int) -> dict[str, Score]:
    """Scores by task at the end of a run; one that has ended is not repeated."""
    folder = f"{load_config(config, changes).run.dir}-{seed}"
    sets = [*changes, f"run.seed={seed}", f"run.dir={folder}"]
    call = [sys.executable, "-m", "trainer", "train", config, *(part for entry in sets for part in ("--set", entry))]
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **threads})

    records = read_records(Path(folder) / "evaluations.jsonl")
    return {record["task"]: Score(record["ne"] or record["nmse"], record["auc"]) for record in records}


def print_table(tasks: list[str], columns: dict[str, dict[str, Score]]) -> None:
    """In Markdown, a task a row."""
    lines = [["task", *columns], ["---"] * (len(columns) + 1)]
    lines += [[task, *(str(scores[task]) for scores in columns.values())] for task in tasks]
    sys.stdout.writelines(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
