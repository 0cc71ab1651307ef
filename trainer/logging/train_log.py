"""What a run reports while it trains: train.jsonl, TensorBoard, the terminal, and evaluations as they are made.

    every step       update             sums on the device
    every log point  write              collective: one record, in train.jsonl, TensorBoard and the terminal
    an evaluation    write_evaluation   its files, TensorBoard, tables
    what happens     event, warn, print

Rank 0 alone writes and prints.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch
from rich.text import Text

from data.columns.decode import Columns
from data.pipeline.account import Account
from data.pipeline.readers import ReadingTimes
from data.storage.files import replace_text
from models.balancers.balancer import Balancer
from models.heads.base import Head
from models.ranker import StepOutput
from trainer.checkpoint.state import State
from trainer.config.compatibility import plain
from trainer.config.run_config import Config
from trainer.console import visible
from trainer.distributed.world import World
from trainer.evaluation.gate_stats import GateObserver, gate_entropies
from trainer.evaluation.result import EvaluationResult, at_milestone, write_evaluation
from trainer.evaluation.warnings import count_not_finite, describe_not_finite
from trainer.logging.balance import balance_figures, conflicts, cosine_map
from trainer.logging.data_window import DataWindow
from trainer.logging.heat_maps import fusion_maps
from trainer.logging.progress import ProgressDisplay
from trainer.logging.tables import by_table, evaluation_table, result_table, window_line, window_table
from trainer.logging.tensorboard import TensorBoardWriter
from trainer.logging.window import TrainingWindow
from trainer.process.host import peak_bytes
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import append_records, json_line
from trainer.run.records import Evaluation, Event, Window, read_evaluations, read_window_evaluations
from trainer.sharding.plan import Placement


class TrainLog:
    """Reports a training from `start` to `end` samples."""

    def __init__(self, config: Config, world: World, run: RunDirectory, state: State, start: int, end: int) -> None:
        """`state` names this start and the datasets, as in its checkpoints."""
        self._config = config
        self._world = world
        self._run = run
        self._state = state
        self._window = TrainingWindow(config.tasks, world)
        self._samples = start
        """At the last record."""
        self._begin = time.perf_counter()
        self._last = self._begin
        """When the last record was written, later by what the stopwatch has been paused since."""
        self._last_times = ReadingTimes()

        self._gates: GateObserver | None = None
        self._newest_gates: list[torch.Tensor] = []
        self._penalties: Mapping[str, torch.Tensor] = {}
        """Of the newest batch, on this rank."""
        self._balancer: Balancer | None = None
        self._task_names = [task.name for task in config.tasks]
        self._columns: Columns | None = None
        self._data_window: DataWindow | None = None
        self._warned_columns: set[str] = set()
        """Dense columns that have been warned of already."""

        self._display = ProgressDisplay(world.is_rank_zero, start, end)
        self._board = TensorBoardWriter(run.tensorboard, start) if world.is_rank_zero else None

    def state(self, samples: int) -> dict[str, Any]:
        """Sums since the last record, over all ranks, for a checkpoint. Collective: call on all ranks."""
        data = {} if self._data_window is None else self._data_window.counts(samples)
        return {"sums": self._window.sums_of_all_ranks(), "data": data}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state`: the next record covers what was trained before the resume too."""
        self._window.restore(state["sums"])
        if self._data_window is not None:
            self._data_window.restore(state.get("data", {}))

    def watch_gates(self, head: Head) -> None:
        """Adds the entropy of each gate, on the newest batch of rank 0, to the records."""
        if self._world.is_rank_zero:
            self._gates = GateObserver(head, self._config.head_tasks, training=True)

    def watch_balance(self, balancer: Balancer | None) -> None:
        """Adds weights of the tasks, and what is known of their gradients, to the records."""
        self._balancer = balancer

    def watch_data(self, columns: Columns, account: Account) -> None:
        """Adds what is wrong with the data to the records, and warns of dense columns with numbers that are not finite.

        `account`: of this rank; the reader of the data goes on counting there.
        """
        self._columns = columns
        self._not_finite_D = account.not_finite_D
        self._data_window = DataWindow(columns, account, self._world)

    def count_bad_rows(self, column: str, rows: int) -> None:
        """Adds rows trained with weight 0 for a value of a column. Call it alike on all ranks."""
        assert self._data_window is not None
        self._data_window.add_bad_rows(column, rows)

    def update(self, step: StepOutput) -> None:
        """Adds a step that was trained, without waiting for the device."""
        self._window.add(step)
        self._penalties = step.penalties
        if self._gates is not None:
            self._newest_gates = self._gates.take()

    def write(self, samples: int, learning_rate: float, times: ReadingTimes) -> None:
        """Writes the record of the samples since the last one. Collective: call on all ranks.

        `times`: what reading has taken in all since the start.
        """
        metrics = self._window.close()
        now = time.perf_counter()
        elapsed = now - self._last
        trained = samples - self._samples
        spent = times.since(self._last_times)
        num_batches = max(trained // self._config.data.global_batch_size, 1)
        self._samples = samples
        self._last = now
        self._last_times = replace(times)

        if self._gates is not None:
            metrics |= gate_entropies(self._gates, self._newest_gates)

        metrics |= {f"penalty/{name}": float(value) for name, value in self._penalties.items()}

        if self._balancer is not None:
            metrics |= balance_figures(self._balancer, self._task_names)

        if self._data_window is not None:
            metrics |= self._data_window.close(samples)
        self._warn_of_not_finite()

        if self._board is not None:
            window = Window(
                samples=samples,
                seconds=now - self._begin,
                samples_per_second=trained / elapsed,
                data_wait_fraction=spent.wait / elapsed,
                batch_read_seconds=spent.read / num_batches,
                batch_decode_seconds=spent.decode / num_batches,
                batch_gather_seconds=spent.gather / num_batches,
                batch_room_seconds=spent.room / num_batches,
                peak_bytes=peak_bytes(),
                learning_rate=learning_rate,
                **metrics,
            )
            self._run.lock.check()
            append_records(self._run.train_log, [window])
            self._board.add_training(window)
            self._display.show(window)

    def _warn_of_not_finite(self) -> None:
        """Warns of each column when it is first seen. Collective: call on all ranks."""
        if self._columns is None:
            return

        rows_by_column = count_not_finite(self._columns, self._not_finite_D, self._world)
        for column in self._warned_columns & rows_by_column.keys():
            del rows_by_column[column]

        for text in describe_not_finite(rows_by_column, "read for training so far"):
            self.warn(text)

        self._warned_columns |= rows_by_column.keys()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Context whose time (an evaluation, a save) is left out of the speed in the next record."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._last += time.perf_counter() - begin

    def write_evaluation(self, result: EvaluationResult, reached: list[str]) -> None:
        """Writes and prints an evaluation, once for each milestone that was reached; on rank 0."""
        if self._board is None:
            return

        self._run.lock.check()
        for text in result.warnings:
            self.warn(text)

        image = self._run.fusion_file(result.samples).with_suffix(".png")
        self._board.add_evaluation(result.of_whole_set, result.samples)
        self._board.add_heat_maps("fusion", fusion_maps(result.fusion), result.samples, image)
        # The run's records come last: once they are written, a later start does not evaluate here again.
        write_evaluation(self._run, result, reached, self._state.run, sums_only=False)

        for milestone in reached or (None,):
            self.print(evaluation_table(at_milestone(result.of_whole_set, milestone)))

        for column in self._config.evaluate.by:
            of_column = [record for record in result.records if record.by == column]
            self.print(by_table(column, of_column, self._run.evaluations.name))

    def write_conflicts(self, samples: int) -> None:
        """Writes the cosines between the tasks' gradients since those written before; on rank 0."""
        cosines = self._balancer.cosines if self._balancer is not None else None
        if self._board is None or cosines is None:
            return

        means = cosines.means()
        if means.steps:
            self._run.lock.check()
            record = conflicts(means, self._task_names, samples)
            path = self._run.conflicts_file(samples)
            self._board.add_heat_maps("conflicts", [cosine_map(record)], samples, path.with_suffix(".png"))
            replace_text(path, json_line(record))

    def begin_conflicts(self, samples: int) -> None:
        """The next cosines written are those of the steps after `samples`. Call it alike on all ranks."""
        if self._balancer is not None and self._balancer.cosines is not None:
            self._balancer.cosines.begin(samples)

    def write_window(self, records: list[Evaluation]) -> None:
        """Writes and prints the evaluation of a window that is trained next; on rank 0."""
        if self._board is not None:
            self._run.lock.check()
            append_records(self._run.evaluations, records)
            self._board.add_window(records)
            self.print(window_line(records))

    def describe(self, placements: list[Placement]) -> None:
        """Shows in TensorBoard what the run is made with."""
        if self._board is not None:
            self._board.describe(plain(self._config), placements)

    def finish(self) -> None:
        """Prints and keeps the result of the run. Collective: call on all ranks."""
        if self._board is not None:
            self._show_result(self._board)
        peak = max(self._world.gather(peak_bytes()))
        self.print(f"peak memory of a process: {peak / 1e6:,.0f} MB")

    def _show_result(self, board: TensorBoardWriter) -> None:
        of_whole_set = [record for record in read_evaluations(self._run.evaluations) if record.by is None]
        of_windows = read_window_evaluations(self._run.evaluations)
        if of_windows:
            self.print(window_table(of_windows))
        if of_whole_set:
            self.print(result_table(of_whole_set))
            of_newest = [record for record in of_whole_set if record.samples == of_whole_set[-1].samples]
            board.add_result(plain(self._config), of_newest)

    def event(self, model: type[Event], samples: int, **values: Any) -> None:
        """Appends what happened to events.jsonl, `values` being the fields of its model; on rank 0."""
        if self._world.is_rank_zero:
            now = datetime.now(UTC).replace(microsecond=0)
            event = model(samples=samples, time=now, segment=self._state.segment, **values)
            self._run.lock.check()
            append_records(self._run.events, [event])

    def warn(self, text: str) -> None:
        """Prints a warning; on rank 0."""
        line = Text.assemble(("warning:", "yellow"), f" {visible(text)}")
        self._display.print(line, soft_wrap=True)

    def print(self, *what: Any) -> None:
        """Prints a table or text above the progress bar; on rank 0."""
        self._display.print(*what)

    def close(self) -> None:
        """Ends the progress bar and flushes TensorBoard, unless another start trains the run by now."""
        self._display.close()
        if self._board is not None and not self._run.lock.is_lost:
            self._board.close()
