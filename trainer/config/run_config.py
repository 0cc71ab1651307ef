"""The configuration of a run: one TOML file and `--set` changes to it. Rules between keys: `trainer.config.rules`."""

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    model_validator,
)
from torch import nn

from data.features import Features
from data.reading import DataConfig
from data.settings import Count, Settings
from data.storage.paths import full_path, local_path
from data.storage.uris import refuse_credentials
from models.balancers import AnyBalanceConfig, ConstantConfig
from models.columns import Columns, columns_of
from models.heads import AnyHeadConfig
from models.products import head_tasks
from models.tasks import TaskConfig
from trainer.clock import Milestone, parse_milestone
from trainer.config.changes import check_change
from trainer.config.rules import RULES
from trainer.config.samples import parse_samples
from trainer.config.warm_start import InitConfig
from trainer.distributed.world import DeviceName
from trainer.sharding.settings import OptimizerConfig, ShardedTableConfig, ShardingConfig


def _place(text: str) -> str:
    """A URI without credentials, or a path."""
    refuse_credentials(text)
    return text if "://" in text else str(full_path(text))


class RunConfig(Settings):
    """Where and how the run lives."""

    dir: Annotated[str, AfterValidator(lambda text: str(local_path(text)))]
    """The run's folder; starting again in it resumes from its newest checkpoint."""
    seed: int = Field(default=17, ge=0)
    """Seed of the data order, the initial weights and dropout."""
    device: DeviceName = "auto"
    """auto: the GPUs where there are some, else the CPU."""
    trace: bool = False
    """true: every rank records in `run.dir`/trace which rows it handed out (16 bytes a row); `adatt audit` compares."""
    allow_change: tuple[Annotated[str, AfterValidator(check_change)], ...] = Field(default=(), exclude=True)
    """Keys that this start may have other values of than the run before it, as by `adatt train --allow-change KEY`:
    learning rates and their schedules, weight decay, clip_norm, task weights, dropout."""
    accept_changed_data: bool = Field(default=False, exclude=True)
    """true: files of the training data that hold the same rows as before in other bytes are accepted at this start, as
    by `adatt train --accept-changed-data`: repaired, or written anew. Their rows are not compared."""
    hang_seconds: float = Field(default=900, gt=0)
    """A rank that does not join, or makes no progress for this long, is reported with where it hangs, and the run ends
    (exit 1). More than the longest wait for a save, and than the time between the starts of the first and last node."""
    collective_seconds: float = Field(default=60, gt=0)
    """A rank that has joined and is not heard from for this long, by any of the others, is given up and named, and all
    end (exit 1), as does a rank that cannot reach the others: a host lost or cut off, a process stopped. However long
    ranks work is another matter (hang_seconds). Also how long the ranks may take to connect to each other, and how
    long a start waits for a run that such a rank still holds."""


class TrainConfig(Settings):
    """How long, and in what precision."""

    samples: Annotated[int | str, BeforeValidator(parse_samples)]
    """Samples to train, over all ranks: 4096, "300k", "70B"; "all": to the end of the data as it is at each start; or
    "2 passes" of it, with data.repeat."""
    patience: int | None = Field(default=None, gt=0)
    """Stop when no task has improved for so many milestones on the test set; left out: train to the end."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: matrix products of the dense part in bfloat16 (GPU only); weights, losses and metrics stay float32."""
    on_non_finite: Literal["stop", "skip"] = "stop"
    """When a loss or gradient of a batch is not finite on any rank: stop before the update, naming the batch; or leave
    the batch out, up to `non_finite_batches` of them."""
    non_finite_batches: int = Field(default=10, ge=0)
    """Batches that may be left out in one start of the run, with on_non_finite = "skip"."""


class EvaluateConfig(Settings):
    """When to evaluate, besides the end of training."""

    at_samples: tuple[
        Annotated[Milestone, BeforeValidator(parse_milestone), PlainSerializer(lambda milestone: milestone.text)], ...
    ] = ()
    """Milestones, ascending: ["10B", "30B", "70B"]."""
    next_window: bool = False
    """true: in chronological order, every window of the training data is evaluated before it is trained (progressive
    validation): one more pass over the data, without training."""
    by: tuple[str, ...] = ()
    """Columns of the test set, such as ["tab"]: every metric for each of their values too, up to 1,000."""
    unit: str | None = None
    """Column of the test set whose rows belong together, such as "user_id": `adatt compare` draws them together, since
    rows of one user are not independent. Left out: rows are taken as independent, and intervals may be too narrow."""
    group_by: str | None = None
    """Column of the test set, such as "user_id", for grouped AUC (`gauc`): AUC within the rows of each of its values,
    averaged by their weight. Each rank keeps 8 bytes for each of its rows, and 8 more for each binary task."""


class CheckpointConfig(Settings):
    """Where to save, and when, besides the milestones and the end."""

    dir: Annotated[str, AfterValidator(_place)] | None = None
    """Where checkpoints are: a path, or a URI such as "s3://bucket/july", as of datasets; left out: in run.dir. With it
    nodes need no run.dir in common: the run's records are kept there too, and put into a run.dir that lacks them."""
    every_samples: Count | None = Field(default=None, gt=0)
    """Samples between checkpoints; left out: only at milestones and at the end."""
    every_minutes: float = Field(default=15, ge=0)
    """Most minutes between checkpoints, by the clock of rank 0: what a lost machine costs; 0: never by the clock."""
    keep: int = Field(default=3, gt=0)
    """Newest checkpoints to keep; those of milestones and of the end stay for good."""
    grace_seconds: float = Field(default=120, gt=0)
    """Longest time from a request to stop (Ctrl-C, a closed terminal, SIGTERM, SIGUSR1) to the end; set the
    scheduler's above it."""


class LogConfig(Settings):
    """What is written while training."""

    every_samples: Count | None = Field(default=None, gt=0)
    """Samples between records of train.jsonl; left out: a hundredth of train.samples."""


class Config(Settings):
    """A run."""

    run: RunConfig
    data: DataConfig
    features: Features
    tables: tuple[ShardedTableConfig, ...]
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    model: AnyHeadConfig
    balance: AnyBalanceConfig = ConstantConfig()
    init: InitConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    sharding: ShardingConfig = ShardingConfig()
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for rule in RULES:
            rule(self)
        head = self.model.build_on_meta(self.columns, self.head_tasks)
        self.balance.check(self.model, self.tasks)
        if self.balance.at == "trunk":
            head.meet_at_trunk(nn.Identity())
        return self

    @property
    def head_tasks(self) -> list[str]:
        """Names of the tasks for which the head has an output."""
        return [task.name for task in head_tasks(self.tasks)]

    @property
    def embeddings_per_id(self) -> int:
        """Embeddings of each id, as the head wants them."""
        return self.model.embeddings_per_id(len(self.head_tasks))

    @property
    def tables_held(self) -> tuple[ShardedTableConfig, ...]:
        """The tables with rows that hold all embeddings of an id."""
        count = self.embeddings_per_id
        if count == 1:
            return self.tables
        return tuple(table.model_copy(update={"dim": count * table.dim}) for table in self.tables)

    @property
    def columns(self) -> Columns:
        """What the head reads."""
        return columns_of(self.tables_held, self.features, self.embeddings_per_id)

    @property
    def evaluated_tasks(self) -> list[str]:
        """Names of the tasks that have metrics."""
        return [task.name for task in self.tasks if not task.auxiliary]

    def log_every(self, end: int) -> int:
        """Samples between records of train.jsonl in a training to `end` samples."""
        return self.log.every_samples or max(end // 100, 1)
