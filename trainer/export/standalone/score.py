"""Scores raw rows with the model of this folder.

    python score.py < rows.jsonl > predictions.jsonl      a row a line, as in examples.jsonl under "row"
    python score.py --check                               the examples: exit code 1 beyond 1e-6

    model = Model()
    model.predict([{"user_id": 7, "tab": "home"}])        {"click": array([0.12], dtype=float32)}

It needs Python 3.11, numpy and torch, of the version in manifest.json or later.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from features import Recipe

HERE = Path(__file__).parent
TOLERANCE = 1e-6
ROWS = 4096
"""Lines of standard input that are read and scored at once."""


class Model:
    """The network with its recipe; `folder`: the export."""

    def __init__(self, folder: str | Path = HERE) -> None:
        self.recipe = Recipe(Path(folder) / "features.json")
        self.network = torch.export.load(Path(folder) / "model.pt2").module()

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """A probability, or a regression's value, for each task and row; raises ValueError for a bad row."""
        sparse, dense = self.recipe.inputs(rows)
        tensors = {name: {key: torch.from_numpy(array) for key, array in ids.items()} for name, ids in sparse.items()}
        with torch.inference_mode():
            predictions = self.network(tensors, torch.from_numpy(dense))
        return {task: values.numpy() for task, values in predictions.items()}


def difference(one: float, other: float) -> float:
    """|one - other|, for values beyond 1 relative to them. A value that is not finite differs from all but itself."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    found = abs(one - other) / max(1.0, abs(other))
    return math.inf if math.isnan(found) else found  # NaN would be lost in a maximum


def check(model: Model) -> float:
    """The largest difference between the examples and what the folder makes of them."""
    examples = [json.loads(line) for line in (HERE / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [example["row"] for example in examples]
    sparse, dense = model.recipe.inputs(rows)
    predictions = model.predict(rows)
    largest = 0.0
    for number, example in enumerate(examples):
        for name, ids in example["ids"].items():
            of_row = np.split(sparse[name]["ids"], sparse[name]["offsets"][1:])[number]
            if of_row.tolist() != ids:
                raise ValueError(f"example {number}: feature {name!r} has other ids")
        pairs = list(zip(dense[number].tolist(), example["dense"], strict=True))
        pairs += [(float(predictions[task][number]), value) for task, value in example["predictions"].items()]
        largest = max([largest, *(difference(one, other) for one, other in pairs)])
    return largest


def main(arguments: list[str]) -> int:
    """The exit code."""
    model = Model()
    if arguments == ["--check"]:
        largest = check(model)
        sys.stdout.write(f"largest difference of the examples: {largest:.1e}\n")
        return int(not largest <= TOLERANCE)

    lines = (line for line in sys.stdin.buffer if line.strip())  # bytes are UTF-8, whatever the locale is
    done = 0
    while rows := [json.loads(line) for line in islice(lines, ROWS)]:
        try:
            predictions = model.predict(rows)
        except ValueError as error:
            sys.exit(f"error: after {done} rows, {error}")
        for values in zip(*predictions.values(), strict=True):
            sys.stdout.write(json.dumps(dict(zip(predictions, map(float, values), strict=True))) + "\n")
        done += len(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
