"""TensorBoard: every number of a run by samples, what it was made with, and what its gates learnt."""

from pathlib import Path
from typing import Any

import tomli_w
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from data.storage.files import replaced
from trainer.sharding.plan import Placement

HPARAMS = {
    "head": ("model", "head"),
    "levels": ("model", "levels"),
    "task_experts": ("model", "task_experts"),
    "shared_experts": ("model", "shared_experts"),
    "experts": ("model", "experts"),
    "tower": ("model", "tower"),
    "dropout": ("model", "dropout"),
    "seed": ("run", "seed"),
    "batch": ("data", "global_batch_size"),
    "dense_optimizer": ("optimizer", "dense", "name"),
    "dense_learning_rate": ("optimizer", "dense", "learning_rate"),
    "sparse_optimizer": ("optimizer", "sparse", "name"),
    "sparse_learning_rate": ("optimizer", "sparse", "learning_rate"),
    "samples": ("train", "samples"),
}
"""What TensorBoard's HPARAMS page compares runs by, and where it stands in the config."""

EVALUATION_KEYS = ("ne", "auc", "log_loss", "calibration", "mse", "nmse")
"""Metrics of an evaluation that are drawn."""


class TensorBoardWriter:
    """A run's TensorBoard folder, from `start` samples on: what an earlier start wrote after them is purged."""

    def __init__(self, folder: Path, start: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=start + 1)
        self._start = start

    def describe(self, config: dict[str, Any], placements: list[Placement]) -> None:
        """The resolved config and the sharding plan, as text."""
        self._writer.add_text("config", _indented(tomli_w.dumps(config)), self._start)
        rows = [
            f"{entry.table}: {entry.rows:,} x {entry.dim}, {entry.sharding} on {entry.ranks}" for entry in placements
        ]
        self._writer.add_text("plan", _indented("\n".join(rows)), self._start)

    def add_scalars(self, values: dict[str, float | None], samples: int) -> None:
        """Numbers by name; those that are None are not defined here."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, samples)

    def add_evaluation(self, records: list[dict[str, Any]], samples: int) -> None:
        """The metrics of each task on the whole test set."""
        for record in records:
            metrics = {key: record[key] for key in EVALUATION_KEYS}
            self.add_scalars({f"evaluation/{key}/{record['task']}": value for key, value in metrics.items()}, samples)

    def add_fusion(self, levels: list[dict[str, Any]], samples: int, image: Path) -> None:
        """Heat maps of the mean fusion weights, here and as a PNG; nothing without gates."""
        if levels:
            figure = fusion_figure(levels)
            image.parent.mkdir(parents=True, exist_ok=True)
            with replaced(image) as file:
                figure.savefig(file, format="png", dpi=120)
            self._writer.add_figure("fusion", figure, samples, close=False)

    def add_result(self, config: dict[str, Any], records: list[dict[str, Any]]) -> None:
        """The run as a line of the HPARAMS page, with the metrics of its last evaluation."""
        values = {name: _at(config, path) for name, path in HPARAMS.items()}
        chosen = {
            name: value if isinstance(value, str | int | float) else str(value)
            for name, value in values.items()
            if value is not None
        }
        metrics = {
            f"final/{key}/{record['task']}": record[key]
            for record in records
            for key in ("ne", "auc", "mse")
            if record[key] is not None
        }
        self._writer.add_hparams(chosen, metrics, run_name=".")

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def fusion_figure(levels: list[dict[str, Any]]) -> Figure:
    """A heat map for each level: how much each output takes from each expert."""
    widths = [len(level["experts"]) for level in levels]
    heights = [len(level["units"]) for level in levels]
    figure = Figure(
        figsize=(2 + 0.6 * max(widths), sum(0.8 + 0.45 * height for height in heights)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(levels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for number, (level, axis) in enumerate(zip(levels, axes, strict=True)):
        largest = max(abs(weight) for row in level["weights"] for weight in row) or 1.0
        axis.imshow(level["weights"], cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
        axis.set_xticks(range(len(level["experts"])), level["experts"], rotation=30, ha="right", fontsize=8)
        axis.set_yticks(range(len(level["units"])), level["units"], fontsize=8)
        axis.set_title(f"level {number}: mean weight on each expert", fontsize=9)
        for row, weights in enumerate(level["weights"]):
            for column, weight in enumerate(weights):
                colour = "white" if abs(weight) > 0.6 * largest else "black"
                axis.text(column, row, f"{weight:.2f}", ha="center", va="center", fontsize=7, color=colour)
    return figure


def _indented(text: str) -> str:
    """Markdown that keeps the lines as they are."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values
