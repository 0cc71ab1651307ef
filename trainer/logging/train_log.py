"""What a run says while it trains: train.jsonl, TensorBoard, and a progress bar (plain lines without a terminal).

Sums stay on the device; the host waits for them at log points only.
"""

import time
from datetime import UTC, datetime
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from data.columns.decode import Columns
from data.hashing import Int64
from models.heads.base import Head
from models.ranker import StepOutput
from models.tasks import TaskConfig
from trainer.checkpoint.storage import State
from trainer.config.run_config import Config
from trainer.console import make_console, visible
from trainer.distributed.world import World
from trainer.evaluation.bucket_sums import Buckets, write_buckets
from trainer.evaluation.calibration import Calibration, write_calibration
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.gate_stats import GateObserver, gate_entropies, write_fusion
from trainer.evaluation.metrics import entropy
from trainer.evaluation.not_finite import count_not_finite, describe_not_finite
from trainer.logging.tables import by_table, evaluation_table, result_table
from trainer.logging.tensorboard import TensorBoardWriter
from trainer.run.directory import RunDirectory, append_records, plain
from trainer.sharding.plan import Placement

PLAIN_LINE_SECONDS = 5.0
"""Least distance between plain lines where the output is no terminal."""


class TrainLog:
    """Losses, speed and waiting time since the last record; `write` is collective."""

    def __init__(self, config: Config, world: World, run: RunDirectory, state: State, start: int, end: int) -> None:
        """`state` names this start and the datasets, as in its checkpoints."""
        self._config, self._world, self._run, self._state = config, world, run, state
        self._weight_T = torch.tensor([task.loss_weight for task in config.tasks], dtype=torch.float64)
        self._is_binary_T = torch.tensor([task.binary for task in config.tasks], device=world.device)
        self._sums_4T = torch.zeros(4, len(config.tasks), dtype=torch.float64, device=world.device)
        """Of loss, weight, prediction and label, weighted."""
        self._gates: GateObserver | None = None
        self._newest_gates: list[torch.Tensor] = []
        self._columns: Columns | None = None
        self._warned_of: set[str] = set()
        """Dense columns that have been warned of already."""
        self._samples = start
        self._begin = self._last = time.perf_counter()
        self._last_wait = 0.0
        self._display = Display(world.is_rank_zero, start, end)
        self._board = TensorBoardWriter(run.tensorboard, start) if world.is_rank_zero else None

    def state(self) -> dict[str, Any]:
        """Sums since the last record, over all ranks, for a checkpoint. Collective: call on all ranks."""
        return {"sums": self._world.sum(self._sums_4T.clone()).tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state`: the next record covers what was trained before the resume too."""
        if self._world.is_rank_zero:
            self._sums_4T += torch.tensor(state["sums"], dtype=torch.float64, device=self._sums_4T.device)

    def watch_gates(self, head: Head) -> None:
        """Adds the entropy of each gate, on the newest batch of rank 0, to the records."""
        if self._world.is_rank_zero:
            self._gates = GateObserver(head, [task.name for task in self._config.tasks], training=True)

    def watch_data(self, columns: Columns, not_finite_D: Int64) -> None:
        """Warns at each record of new dense columns with numbers that are not finite. `not_finite_D`: rows so far."""
        self._columns, self._not_finite_D = columns, not_finite_D

    def update(self, output: StepOutput) -> None:
        """Adds the losses of a step that was trained, without waiting for them."""
        predictions_BT = torch.where(self._is_binary_T, output.logits_BT.sigmoid(), output.logits_BT)
        self._sums_4T[0] += output.loss_T
        self._sums_4T[1] += output.weights_BT.sum(dim=0)
        self._sums_4T[2] += (predictions_BT * output.weights_BT).sum(dim=0)
        self._sums_4T[3] += (output.labels_BT * output.weights_BT).sum(dim=0)
        if self._gates is not None:
            self._newest_gates = self._gates.take()

    def write(self, samples: int, learning_rate: float, wait_seconds: float) -> None:
        """Writes the record of the samples since the last one. Collective: call on all ranks."""
        sums_4T = self._world.sum(self._sums_4T).cpu().clone()
        self._sums_4T.zero_()
        now = time.perf_counter()
        trained, elapsed = samples - self._samples, now - self._last
        record: dict[str, Any] = {
            "samples": samples,
            "seconds": now - self._begin,
            "samples_per_second": trained / elapsed,
            "loss": total_loss(sums_4T, self._weight_T),
            "data_wait_fraction": (wait_seconds - self._last_wait) / elapsed,
            "learning_rate": learning_rate,
        }
        for task, sums in zip(self._config.tasks, sums_4T.t().tolist(), strict=True):
            record |= window_metrics(task, sums)
        if self._gates is not None:
            record |= gate_entropies(self._gates, self._newest_gates)
        self._warn_of_not_finite()
        self._samples, self._last, self._last_wait = samples, now, wait_seconds
        if self._board is not None:
            append_records(self._run.train_log, [record])
            self._board.add_scalars(
                {f"train/{key}": value for key, value in record.items() if key != "samples"}, samples
            )
            self._display.show(record)

    def _warn_of_not_finite(self) -> None:
        """Warns of each column when it is first seen. Collective: call on all ranks."""
        if self._columns is None:
            return
        found = count_not_finite(self._columns, self._not_finite_D, self._world)
        new = {column: rows for column, rows in found.items() if column not in self._warned_of}
        for text in describe_not_finite(new, "read for training so far"):
            self.warn(text)
        self._warned_of |= new.keys()

    def pause(self) -> "Pause":
        """Leaves what happens inside (an evaluation, a save) out of the next record's speed."""
        return Pause(self)

    def skip(self, seconds: float) -> None:
        """Leaves `seconds` out of the speed of the next record."""
        self._last += seconds

    def write_evaluation(self, samples: int, found: Evaluation, reached: list[str]) -> None:
        """Writes and prints an evaluation, once for each milestone that was reached; rank 0 only."""
        if self._board is None:
            return
        whole = [record for record in found.records if record["by"] is None]
        for record in whole:
            metrics = {key: record[key] for key in ("ne", "auc", "log_loss", "calibration", "mse", "nmse")}
            scalars = {f"evaluation/{key}/{record['task']}": value for key, value in metrics.items()}
            self._board.add_scalars(scalars, samples)
        for text in found.warnings:
            self.warn(text)
        write_buckets(
            self._run.buckets_file(samples),
            found.sums,
            self._config.tasks,
            Buckets(
                samples,
                reached,
                self._state.fingerprints["test"],
                {},
                self._config.evaluate.unit,
                self._state.run,
            ),
        )
        write_fusion(self._run.fusion_file(samples), samples, found.fusion)
        write_calibration(self._run.calibration_file(samples), Calibration(samples=samples, tasks=found.calibration))
        self._board.add_fusion(found.fusion, samples, self._run.fusion_file(samples).with_suffix(".png"))
        for milestone in reached or (None,):
            append_records(self._run.evaluations, [{**record, "milestone": milestone} for record in found.records])
            self.print(evaluation_table([{**record, "milestone": milestone} for record in whole]))
        for column in self._config.evaluate.by:
            of_column = [record for record in found.records if record["by"] == column]
            self.print(by_table(column, of_column, self._run.evaluations.name))

    def describe(self, placements: list[Placement]) -> None:
        """Tells TensorBoard what the run is made with."""
        if self._board is not None:
            self._board.describe(plain(self._config), placements)

    def finish(self, records: list[dict[str, Any]]) -> None:
        """Prints and keeps the result of the run; `records` are those of all its evaluations."""
        self.print(result_table(records))
        whole = [record for record in records if record["by"] is None]
        if self._board is not None:
            self._board.add_result(
                plain(self._config), [entry for entry in whole if entry["samples"] == whole[-1]["samples"]]
            )

    def event(self, name: str, samples: int, **values: Any) -> None:
        """Appends what happened to events.jsonl; rank 0 only writes."""
        if self._world.is_rank_zero:
            when = datetime.now(UTC).isoformat(timespec="seconds")
            record = {"event": name, "time": when, "segment": self._state.segment, "samples": samples, **values}
            append_records(self._run.events, [record])

    def warn(self, text: str) -> None:
        """Prints a warning on rank 0."""
        self._display.print(Text.assemble(("warning:", "yellow"), f" {visible(text)}"), soft_wrap=True)

    def print(self, *what: Any) -> None:
        """Prints a table or text on rank 0, above the progress bar."""
        self._display.print(*what)

    def close(self) -> None:
        """Ends the progress bar and flushes TensorBoard."""
        self._display.close()
        if self._board is not None:
            self._board.close()


def total_loss(sums_4T: torch.Tensor, weight_T: torch.Tensor) -> float | None:
    """Σ over tasks of the task's `loss_weight` x the mean loss of the rows that count, weighted by `data.weight`.

    A constant factor in the rows' weights leaves it as it is. None where no row has counted.
    """
    loss_T, rows_T = sums_4T[0], sums_4T[1]
    counts_T = rows_T > 0
    if not counts_T.any():
        return None
    return float((weight_T * loss_T / rows_T)[counts_T].sum())


def window_metrics(task: TaskConfig, sums: list[float]) -> dict[str, float | None]:
    """A task's metrics on what was trained since the last record: predictions made before each update.

    `sums` are those of loss, weight, prediction and label.
    """
    loss, weight, prediction, label = sums
    mean = loss / weight if weight else None
    found = {f"loss/{task.name}": mean, f"label_mean/{task.name}": label / weight if weight else None}
    if not task.binary:
        return found | {f"mse/{task.name}": mean}
    background = entropy(label / weight) if weight else 0.0
    found |= {f"calibration/{task.name}": prediction / label if label else None}
    return found | {f"ne/{task.name}": mean / background if mean is not None and background > 0 else None}


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
                TextColumn("{task.fields[text]}", markup=False),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("training", total=end, completed=start, text="")
            self._bar.start()

    def show(self, record: dict[str, Any]) -> None:
        """Samples, speed, loss, share of time spent waiting for data; on plain output at most every few seconds."""
        samples, end = record["samples"], self._end
        loss = "–" if record["loss"] is None else f"{record['loss']:.4f}"
        text = (
            f"{samples:,} of {end:,} samples · {record['samples_per_second']:,.0f}/s · "
            f"loss {loss} · data wait {record['data_wait_fraction']:.1%}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=samples, text=text)
        elif self._console is not None and (record["seconds"] >= self._next_line or samples >= end):
            left = (end - samples) / record["samples_per_second"]
            self._console.print(f"{text} · ETA {left:,.0f} s")
            self._next_line = record["seconds"] + PLAIN_LINE_SECONDS

    def print(self, *what: Any, soft_wrap: bool = False) -> None:
        """Prints above the bar."""
        if self._console is not None:
            self._console.print(*what, soft_wrap=soft_wrap)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
