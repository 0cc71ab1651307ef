"""TensorBoard: every number of a run by samples, what it was made with, and what its gates learnt."""

from pathlib import Path
from typing import Any

import tomli_w
from torch.utils.tensorboard import SummaryWriter

from trainer.logging.heat_maps import HeatMap, draw, save
from trainer.run.records import BALANCE, Evaluation, Window
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
"""What TensorBoard's HPARAMS page compares runs by, and the place of each in the config."""
EVALUATION_KEYS = ("ne", "ne_recalibrated", "auc", "gauc", "log_loss", "calibration", "mse", "nmse")
"""Metrics that have a curve over the evaluations."""
RESULT_KEYS = ("ne", "auc", "gauc", "mse")
"""Metrics of the last evaluation that stand on the HPARAMS page."""


class TensorBoardWriter:
    """A run's TensorBoard folder, from `start` samples on: what an earlier start wrote after them is purged."""

    def __init__(self, folder: Path, start: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=start + 1)
        self._start = start

    def describe(self, config: dict[str, Any], placements: list[Placement]) -> None:
        """Adds the resolved config and the sharding plan, as text."""
        config_text = tomli_w.dumps(config)
        self._writer.add_text("config", _indented(config_text), self._start)

        lines = []
        for entry in placements:
            shape = f"{entry.rows:,} x {entry.dim}"
            place = f"{entry.sharding} on {entry.ranks}"
            lines.append(f"{entry.table}: {shape}, {place}")

        self._writer.add_text("plan", _indented("\n".join(lines)), self._start)

    def add_scalars(self, values: dict[str, float | None], samples: int) -> None:
        """Adds numbers by name; those that are None are not defined here."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, samples)

    def add_training(self, window: Window) -> None:
        """Adds a record of train.jsonl; what tells of the tasks' balance has a group of its own."""
        scalars = {}
        for key, value in window.figures.items():
            group = "balance" if key.startswith(BALANCE) else "train"
            scalars[f"{group}/{key}"] = value
        self.add_scalars(scalars, window.samples)

    def add_evaluation(self, records: list[Evaluation], samples: int) -> None:
        """Adds the metrics of each task on the whole test set."""
        for record in records:
            scalars = {f"evaluation/{key}/{record.task}": getattr(record, key) for key in EVALUATION_KEYS}
            self.add_scalars(scalars, samples)

    def add_window(self, records: list[Evaluation]) -> None:
        """Adds the metrics of each task on a window of the training data, before it is trained."""
        for record in records:
            scalars = {f"next_window/{key}/{record.task}": getattr(record, key) for key in EVALUATION_KEYS}
            self.add_scalars(scalars, record.samples)

    def add_heat_maps(self, name: str, maps: list[HeatMap], samples: int, image: Path) -> None:
        """Adds heat maps, here under `name` and as a PNG at `image`, if there are any."""
        if maps:
            pixels_HW4 = draw(maps)
            save(pixels_HW4, image)
            self._writer.add_image(name, pixels_HW4[:, :, :3], samples, dataformats="HWC")

    def add_result(self, config: dict[str, Any], records: list[Evaluation]) -> None:
        """Adds the run as a line of the HPARAMS page, with the metrics of its last evaluation."""
        hparams: dict[str, str | int | float] = {}
        for name, path in HPARAMS.items():
            value = _value_at(config, path)
            if value is not None:
                is_plain = isinstance(value, str | int | float)
                hparams[name] = value if is_plain else str(value)

        metrics = {}
        for record in records:
            for key in RESULT_KEYS:
                value = getattr(record, key)
                if value is not None:
                    metrics[f"final/{key}/{record.task}"] = value

        # The run's own folder, not one below it, so that the line has the curves of the run.
        self._writer.add_hparams(hparams, metrics, run_name=".")

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def _indented(text: str) -> str:
    """Markdown that keeps the lines as they are."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def _value_at(values: Any, path: tuple[str, ...]) -> Any:
    """The value of a nested key; None if there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values
