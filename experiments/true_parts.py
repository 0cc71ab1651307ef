"""How much of each part of the true log odds a model's predictions hold: what limits it on the synthetic log.

    adatt predict RUN --data DATASET/test --out PREDICTIONS
    python -m experiments.true_parts DATASET PREDICTIONS…

The log odds of a binary task are a sum of parts (user, video, taste …; `data.synthetic.tasks`), known for each row.
The predicted log odds are fitted to them by least squares: a slope of 1 says that the model holds the part in full, 0
that it knows nothing of it, and `rest` is the deviation of what is in no part, noise. Below, the same on rows of users,
and of videos, with so many rows in the training data. On the first file of the test set.

Shapes: B rows, P parts, C signals.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.synthetic.log import Impressions
from data.synthetic.tasks import PART_SHARES, TaskModel, build_label_model, mix_signals, signal_parts, true_mean
from data.synthetic.world import ACTIVE_NUMBERS, CONTEXT, HiddenWorld, build_world
from trainer.studies.pages import markdown_table
from trainer.studies.tables import StudyTable

EDGES = (0, 30, 300, 1 << 62)
"""Of the number of training rows that a user or a video has."""
Array = np.ndarray[Any, Any]


def shown_in(world: HiddenWorld, rows: Any) -> Impressions:
    """The rows of a log's Arrow table, with the world's numbers of users and videos."""
    user_of_id = np.argsort(world.user_id_U)
    video_of_id = np.argsort(world.video_id_V)
    recent = rows["recent_videos"].combine_chunks()
    return Impressions(
        user_B=user_of_id[rows["user_id"].to_numpy()],
        video_B=video_of_id[rows["video_id"].to_numpy()],
        context={name: rows[name].to_numpy() for name in CONTEXT},
        numbers={name: rows[name].to_numpy() for name in ACTIVE_NUMBERS},
        recent_offsets_B=recent.offsets.to_numpy(),
        recent_videos_N=video_of_id[recent.values.to_numpy()],
    )


def logit_parts(task: TaskModel, part_PBC: Array, rows: Any) -> Array:
    """z_BP; an AssertionError if their sum is not what the log's oracle says."""
    tab_B = rows["tab"].to_numpy()
    mean_B = true_mean(task, part_PBC.sum(0), tab_B)
    np.testing.assert_allclose(mean_B, rows[f"oracle_{task.task.name}"].to_numpy(), rtol=1e-4, atol=1e-6)
    z_PB = [mix_signals(task.weights_TC, part_BC, tab_B) for part_BC in part_PBC]
    return np.stack(z_PB, axis=1).astype(np.float64)


def held(z_BP: Array, predicted_B: Array) -> list[str]:
    """The slope of each part, and the deviation of the rest."""
    logit_B = np.log(predicted_B) - np.log1p(-predicted_B)
    columns = np.column_stack([z_BP, np.ones(len(z_BP))])
    slopes, *_ = np.linalg.lstsq(columns, logit_B, rcond=None)
    rest = (logit_B - columns @ slopes).std()
    return [f"{value:.2f}" for value in (*slopes[:-1], rest)]


def groups_of(rows: Any, train: str) -> Iterator[tuple[str, Array]]:
    """(name, is_in_B): all, then by the training rows of the user and of the video; none is empty."""
    yield "all rows", np.ones(rows.num_rows, bool)
    for name in ("user", "video"):
        ids = pq.read_table(train, columns=[f"{name}_id"])[0].to_numpy()
        count_B = np.bincount(ids, minlength=pc.max(rows[f"{name}_id"]).as_py() + 1)[rows[f"{name}_id"].to_numpy()]
        for low, high in pairwise(EDGES):
            is_in_B = (low <= count_B) & (count_B < high)
            if is_in_B.any():
                span = f"{low} to {high - 1}" if high < EDGES[-1] else f"{low} or more"
                yield f"{name} of {span} rows, {is_in_B.mean():.0%}", is_in_B


def tables(dataset: Path, predictions: Sequence[Path]) -> Iterator[StudyTable]:
    """One for each binary task."""
    made = json.loads((dataset / "world.json").read_text(encoding="utf-8"))
    world = build_world(made["seed"])
    model = build_label_model(made["seed"], made["group"])
    rows = pq.read_table(sorted((dataset / "test").glob("*.parquet"))[0])
    part_PBC = np.stack(list(signal_parts(world, model.signals, shown_in(world, rows))))
    groups = dict(groups_of(rows, str(dataset / "train")))
    predicted = {folder.name: pq.read_table(folder).slice(0, rows.num_rows) for folder in predictions}

    for task in model.tasks:
        if task.task.kind == "binary":
            z_BP = logit_parts(task, part_PBC, rows)
            name = task.task.name
            of_task = {who: table[name] for who, table in predicted.items() if name in table.column_names}
            yield _table(name, z_BP, groups, of_task)


def _table(name: str, z_BP: Array, groups: dict[str, Array], predicted: dict[str, Any]) -> StudyTable:
    variance_P = z_BP.var(0)
    lines = [["share of the variance", *(f"{share:.2f}" for share in variance_P / variance_P.sum()), ""]]
    for group, is_in_B in groups.items():
        for who, column in predicted.items():
            predicted_B = column.to_numpy().astype(np.float64)
            lines.append([f"{who}, {group}", *held(z_BP[is_in_B], predicted_B[is_in_B])])

    return StudyTable(name, ["", *PART_SHARES, "rest"], lines)


def main(arguments: Sequence[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder that adatt synth has written")
    parser.add_argument("predictions", type=Path, nargs="+", help="folders that adatt predict has written")
    options = parser.parse_args(arguments)
    for one in tables(options.dataset, options.predictions):
        sys.stdout.write(f"## {one.title}\n\n{markdown_table(one)}\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
