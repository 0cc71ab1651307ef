"""What a run says while it trains: train.jsonl, TensorBoard, and a progress bar (plain lines without a terminal).

Sums stay on the device; the host waits for them at log points only.
"""

import time
from datetime import UTC, datetime
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from models.ranker import Outcome
from trainer.config import Config
from trainer.report import make_console
from trainer.run_directory import RunDirectory, append_records
from trainer.world import World

PLAIN_LINE_SECONDS = 5.0
"""Least distance between plain lines where the output is no terminal."""


class TrainLog:
    """Losses, speed and waiting time since the last record; `write` is collective."""

    def __init__(self, config: Config, world: World, run: RunDirectory, segment: int, start: int, end: int) -> None:
        self._world, self._run, self._segment = world, run, segment
        self._tasks = [task.name for task in config.tasks]
        self._weight_T = torch.tensor([task.weight for task in config.tasks], dtype=torch.float64)
        self._sums_2T = torch.zeros(2, len(config.tasks), dtype=torch.float64, device=world.device)
        self._samples = start
        self._begin = self._last = time.perf_counter()
        self._last_wait = 0.0
        self._display = Display(world.first, start, end)
        self._board = SummaryWriter(str(run.tensorboard), purge_step=start + 1) if world.first else None

    def state(self) -> dict[str, Any]:
        """Sums since the last record, over all ranks, for a checkpoint. Collective: call on all ranks."""
        return {"samples": self._samples, "sums": self._world.sum(self._sums_2T.clone()).tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state`: the next record covers what was trained before the resume too."""
        self._samples = state["samples"]
        if self._world.first:
            self._sums_2T += torch.tensor(state["sums"], dtype=torch.float64, device=self._sums_2T.device)

    def update(self, outcome: Outcome) -> None:
        """Adds the losses of a step that was trained, without waiting for them."""
        self._sums_2T[0] += outcome.loss_T
        self._sums_2T[1] += outcome.weights_BT.sum(dim=0)

    def write(self, samples: int, learning_rate: float, wait_seconds: float) -> None:
        """Writes the record of the samples since the last one. Collective: call on all ranks."""
        loss_T, weight_T = self._world.sum(self._sums_2T).cpu().clone()
        self._sums_2T.zero_()
        now = time.perf_counter()
        trained, elapsed = samples - self._samples, now - self._last
        record: dict[str, Any] = {
            "samples": samples,
            "seconds": now - self._begin,
            "samples_per_second": trained / elapsed,
            "loss": float((loss_T * self._weight_T).sum()) / trained,
            "data_wait_fraction": (wait_seconds - self._last_wait) / elapsed,
            "learning_rate": learning_rate,
        }
        for index, task in enumerate(self._tasks):
            weight = float(weight_T[index])
            record[f"loss/{task}"] = float(loss_T[index]) / weight if weight else None
        self._samples, self._last, self._last_wait = samples, now, wait_seconds
        if self._board is not None:
            append_records(self._run.train_log, [record])
            self._add_scalars({f"train/{key}": value for key, value in record.items() if key != "samples"}, samples)
            self._display.show(record)

    def pause(self) -> "Pause":
        """Leaves what happens inside (an evaluation, a save) out of the next record's speed."""
        return Pause(self)

    def skip(self, seconds: float) -> None:
        """Leaves `seconds` out of the speed of the next record."""
        self._last += seconds

    def write_evaluation(self, samples: int, records: list[dict[str, Any]]) -> None:
        """Appends an evaluation's records; rank 0 only writes."""
        if self._board is None:
            return
        append_records(self._run.evaluations, records)
        for record in records:
            metrics = {key: record[key] for key in ("ne", "auc", "log_loss", "calibration", "mse")}
            self._add_scalars({f"evaluation/{key}/{record['task']}": value for key, value in metrics.items()}, samples)

    def event(self, name: str, samples: int, **values: Any) -> None:
        """Appends what happened to events.jsonl; rank 0 only writes."""
        if self._world.first:
            when = datetime.now(UTC).isoformat(timespec="seconds")
            record = {"event": name, "time": when, "segment": self._segment, "samples": samples, **values}
            append_records(self._run.events, [record])

    def warn(self, text: str) -> None:
        """Prints a warning on rank 0."""
        self._display.print(f"[yellow]warning:[/] {escape(text)}")

    def print(self, *what: Any) -> None:
        """Prints a table or text on rank 0, above the progress bar."""
        self._display.print(*what)

    def close(self) -> None:
        """Ends the progress bar and flushes TensorBoard."""
        self._display.close()
        if self._board is not None:
            self._board.close()

    def _add_scalars(self, values: dict[str, float | None], samples: int) -> None:
        assert self._board is not None
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, samples)


class Pause:
    """Context in which the log's stopwatch stands still."""

    def __init__(self, log: TrainLog) -> None:
        self._log = log

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._log.skip(time.perf_counter() - self._begin)


class Display:
    """The progress bar of rank 0."""

    def __init__(self, enabled: bool, start: int, end: int) -> None:
        self._console: Console | None = make_console() if enabled else None
        self._end, self._next_line = end, 0.0
        self._bar: Progress | None = None
        if self._console is not None and self._console.is_terminal:
            columns = (
                TextColumn("training"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("training", total=end, completed=start, text="")
            self._bar.start()

    def show(self, record: dict[str, Any]) -> None:
        """Samples, speed, loss, share of time spent waiting for data; on plain output at most every few seconds."""
        samples, end = record["samples"], self._end
        text = (
            f"{samples:,} of {end:,} samples · {record['samples_per_second']:,.0f}/s · "
            f"loss {record['loss']:.4f} · data wait {record['data_wait_fraction']:.1%}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=samples, text=text)
        elif self._console is not None and (record["seconds"] >= self._next_line or samples >= end):
            left = (end - samples) / record["samples_per_second"]
            self._console.print(f"{text} · ETA {left:,.0f} s")
            self._next_line = record["seconds"] + PLAIN_LINE_SECONDS

    def print(self, *what: Any) -> None:
        """Prints above the bar."""
        if self._console is not None:
            self._console.print(*what)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
