"""The records that a run leaves in its files: one model for each file, for those who write it and those who read it.

    RUN/evaluations.jsonl   Evaluation      one task at one evaluation
    RUN/train.jsonl         Window          figures of what was trained since the record before
    RUN/events.jsonl        Event           whatever happened besides; one subclass for each kind
    RUN/fusion/*.json, RUN/conflicts/*.json    trainer.run.matrices
    RUN/segments.jsonl      trainer.run.starts.RunStart
    RUN/calibration/*.json  trainer.evaluation.calibration.Calibration

Keys that a model does not name are kept as they are, so that records of later versions can be read and rewritten.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from data.storage.parsing import parse_json
from trainer.errors import ConfigError
from trainer.run.jsonl import whole_lines
from trainer.run.starts import Samples, explain

AnyRecord = TypeVar("AnyRecord", bound="Record")

WEIGHT, LENGTH, COSINE = "balance_weight", "gradient_norm", "gradient_cosine"
"""How the keys of training records begin that tell of the tasks' balance (`trainer.logging.balance`)."""
BALANCE = tuple(f"{key}/" for key in (WEIGHT, LENGTH, COSINE))


class Record(BaseModel):
    """What is written at some samples; a line of a JSONL file, or a JSON file."""

    model_config = ConfigDict(extra="allow", frozen=True)

    samples: Samples

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValidationError if the text is not such a record."""
        return cls.model_validate_json(text, strict=True)


class Evaluation(Record):
    """A task's metrics at one evaluation; None for one that does not apply or is not defined.

    Metrics are documented in `trainer.evaluation.metrics.Metrics`. A metric that this model does not name is written
    with the others.
    """

    milestone: str | None = None
    by: str | None = None
    """The column that `value` is a value of; None for the whole test set."""
    value: bool | int | float | str | None = None
    window: str | None = None
    """The time window of the training data that was evaluated before it was trained; None for the test set."""
    task: str
    kind: Literal["binary", "regression"]
    examples: int
    weight: float = 0.0
    log_loss: float | None = None
    ne: float | None = None
    ne_recalibrated: float | None = None
    """NE after the best shift of the log odds (`trainer.evaluation.recalibration`), on the whole test set."""
    auc: float | None = None
    auc_error: float | None = None
    gauc: float | None = None
    """AUC within groups of rows (`trainer.evaluation.grouped_auc`), if `evaluate.group_by` names a column."""
    gauc_share: float | None = None
    """Share of the weight that is in groups with an AUC."""
    calibration: float | None = None
    mse: float | None = None
    nmse: float | None = None
    prediction_mean: float | None = None
    label_mean: float | None = None
    oracle_ne: float | None = None
    oracle_mse: float | None = None
    seconds: float = 0.0
    """Of the whole evaluation, over all tasks."""

    @property
    def main_metric(self) -> Literal["ne", "mse"]:
        """The metric that the task is judged by; lower is better."""
        return "ne" if self.kind == "binary" else "mse"

    @property
    def main(self) -> float | None:
        """NE of a binary task, MSE of a regression task."""
        return self.ne if self.kind == "binary" else self.mse

    @property
    def oracle(self) -> float | None:
        """What the true conditional means would score in the main metric; None unless the data is synthetic."""
        return self.oracle_ne if self.kind == "binary" else self.oracle_mse


class Window(Record):
    """Figures of what was trained since the record before, over all ranks.

    Besides those named here: a metric of each task as METRIC/TASK; gate_entropy/LEVEL/UNIT and penalty/NAME on the
    newest batch of rank 0; with `balance`, WEIGHT/TASK, LENGTH/TASK and COSINE/TASK/OTHER of the newest step; and where
    there are any, the rows left out for a value of a column as bad_values/COLUMN, and the NaN and ±inf of a dense
    column as not_finite/COLUMN.
    """

    __pydantic_extra__: dict[str, float | None]

    seconds: float = 0.0
    """Since the start began."""
    samples_per_second: float = 0.0
    loss: float | None = None
    data_wait_fraction: float = 0.0
    """Share of the time in which rank 0 waited for data."""
    batch_read_seconds: float = 0.0
    """For each batch, of rank 0's reader threads together: files → Arrow tables."""
    batch_decode_seconds: float = 0.0
    """Likewise: Arrow tables → checked and permuted arrays."""
    batch_gather_seconds: float = 0.0
    """Likewise: arrays → batches."""
    batch_room_seconds: float = 0.0
    """Likewise: waiting, since enough batches are ready. Nothing here and data wait: reading is the bottleneck."""
    peak_bytes: int = 0
    """The most memory that rank 0's process has had so far."""
    learning_rate: float | None = None
    """Of the dense parameters."""

    @property
    def figures(self) -> dict[str, float | None]:
        """All figures by their keys."""
        return self.model_dump(exclude={"samples"})


class Event(Record):
    """Something that happened."""

    event: str
    time: AwareDatetime
    segment: int
    """The start in which it happened, counted from 0."""


class CheckpointEvent(Event):
    """A checkpoint is complete."""

    event: Literal["checkpoint"] = "checkpoint"
    pinned: bool = False
    """Whether it is of a milestone, and so is never deleted."""
    seconds: float = 0.0
    """From the beginning of its save."""


class DamagedCheckpointEvent(Event):
    """A checkpoint was set aside when the run was resumed."""

    event: Literal["damaged_checkpoint"] = "damaged_checkpoint"
    problem: str = ""


class SkippedBatchEvent(Event):
    """The batch that begins at `samples` had no update, since a loss or gradient was not finite."""

    event: Literal["skipped_batch"] = "skipped_batch"
    batch: int = 0
    """Its rows, over all ranks."""


class SkippedRowsEvent(Event):
    """Rows start … stop of a row group's order in an epoch could not be read (`data.stream.SkippedRows`)."""

    event: Literal["skipped_rows"] = "skipped_rows"
    epoch: int = Field(ge=0)
    file: str
    row_group: int
    start: int = Field(ge=0)
    stop: int
    reason: str = ""


class BadValuesEvent(Event):
    """Rows of a row group that weigh 0 in an epoch, for the same fault of a column; told when the first is trained."""

    event: Literal["bad_values"] = "bad_values"
    epoch: int = Field(ge=0)
    file: str
    row_group: int
    column: str
    reason: str
    rows: int
    ranges: list[tuple[NonNegativeInt, NonNegativeInt]] = Field(min_length=1)
    """Which these are, as stored in the row group: first row, and the one after the last."""


class ConfigChangeEvent(Event):
    """From `samples` on, a key of the config has another value."""

    event: Literal["config_change"] = "config_change"
    key: str = ""
    before: str = ""
    now: str = ""


class ChangedDataEvent(Event):
    """From this start on, files of the training data have other contents, with the same rows, as was asked for."""

    event: Literal["changed_data"] = "changed_data"
    files: list[str] = []


class TakenPart(BaseModel):
    """A table, the head or the optimizer: how much of it is the source's, and what is not."""

    what: str
    taken: str
    note: str = ""


class WarmStartEvent(Event):
    """The run begins with weights of another (`trainer.warm_start`)."""

    event: Literal["warm_start"] = "warm_start"
    source: str = ""
    checkpoint: str = ""
    parts: list[TakenPart] = []


EVENTS: dict[str, type[Event]] = {
    "bad_values": BadValuesEvent,
    "changed_data": ChangedDataEvent,
    "config_change": ConfigChangeEvent,
    "checkpoint": CheckpointEvent,
    "damaged_checkpoint": DamagedCheckpointEvent,
    "skipped_batch": SkippedBatchEvent,
    "skipped_rows": SkippedRowsEvent,
    "warm_start": WarmStartEvent,
}
"""The models of events by their kind; others, of later versions, are read as `Event`."""


def read_evaluations(path: Path) -> list[Evaluation]:
    """The records of evaluations.jsonl on test sets; raises ConfigError if a line is damaged."""
    return [record for record in _read_all_evaluations(path) if record.window is None]


def read_window_evaluations(path: Path) -> list[Evaluation]:
    """Those on windows of the training data (`evaluate.next_window`)."""
    return [record for record in _read_all_evaluations(path) if record.window is not None]


def _read_all_evaluations(path: Path) -> list[Evaluation]:
    return _read(path, Evaluation.from_json, "an evaluation")


def read_windows(path: Path) -> list[Window]:
    """The records of train.jsonl; raises ConfigError if a line is damaged."""
    return _read(path, Window.from_json, "a training record")


def read_events(path: Path) -> list[Event]:
    """The records of events.jsonl, each of the model of its kind; raises ConfigError if a line is damaged."""
    return _read(path, _event_from_json, "an event")


def _event_from_json(line: str) -> Event:
    values = parse_json(line)
    kind = values.get("event") if isinstance(values, dict) else ""
    return EVENTS.get(str(kind), Event).from_json(line)


def _read(path: Path, from_json: Callable[[str], AnyRecord], what: str) -> list[AnyRecord]:
    """One record for each line; a last line that is being written, or that a kill cut short, is passed over."""
    records = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            records.append(from_json(line))
        except ValueError as error:
            reason = explain(error) if isinstance(error, ValidationError) else str(error)
            raise ConfigError(
                f"{path}: line {number} is not {what} ({reason}); restore the file from a copy"
            ) from error

    return records
