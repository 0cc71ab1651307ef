"""How a dataset is read: the user's `[data]` section, and what fixes the content of every global batch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data.columns.decode import Columns
from data.discovery.source import Source, source_of
from data.discovery.where import parse_where
from data.manifest import Manifest, OnBadFile
from data.order import OrderName
from data.settings import Bytes, Settings
from data.storage.uris import refuse_credentials


def _without_credentials(uris: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for uri in (uris,) if isinstance(uris, str) else uris:
        refuse_credentials(uri)
    if not uris:
        raise ValueError("names no dataset")
    return uris if isinstance(uris, str) or len(uris) > 1 else uris[0]


def _parsed(text: str | None) -> str | None:
    if text is not None:
        parse_where(text)
    return text


Uris = Annotated[str | tuple[str, ...], AfterValidator(_without_credentials)]
OnBadValue = Literal["fail", "skip"]
Partitions = Annotated[str | None, AfterValidator(_parsed)]


class DataConfig(Settings):
    """Which data, in what batches and order."""

    train: Uris
    """Parquet dataset to train on: a file, a folder, a pattern such as "logs/dt=2022-04-*" or a list of them; a local
    path, or a URI that pyarrow.fs opens (s3, gs, hdfs, abfss). Credentials come from the store's own environment."""
    test: Uris | None = None
    """Parquet dataset to evaluate on, likewise; every row is used exactly once. May be left out with
    `evaluate.next_window`."""
    where: Partitions = None
    """Which Hive partitions of the training data are wanted, by the keys of their folders:
    "dt >= 2022-04-25 and dt < 2022-05-05", with or, not, in (…) and brackets. Others are not even listed."""
    complete: str | None = Field(default=None, pattern=r"^[^/]+$")
    """Of the training data, only folders that hold a file of this name count, such as "_SUCCESS"."""
    test_where: Partitions = None
    """The same for the test data."""
    global_batch_size: int = Field(default=512, gt=0, le=1 << 30)
    """Rows of one optimizer step over all ranks; a multiple of `lanes`. The default suits logs of up to some millions
    of rows, which need many steps; a large cluster wants thousands, with learning rates tuned for them."""
    lanes: int = Field(default=8, gt=0, le=1 << 16)
    """Streams that the order is cut into; the number of ranks must divide it. Part of the order: the same lanes give
    the same batches on any number of ranks. Each lane keeps a decoded block in memory, each thread one more."""
    order: OrderName = "shuffled"
    """shuffled, chronological (inside time windows only), or stored."""
    repeat: bool = False
    """true: train.samples may exceed the rows of the data; each pass is a new permutation. May be set for a finished
    run, to train further passes."""
    weight: str | None = None
    """Column of non-negative row weights; left out: every row weighs 1."""
    memory: Bytes = Field(default=2 * 10**9, gt=0)
    """What reading may take of each rank's memory, as "2GB" or "500MB", where one rank serves all lanes. Row groups too
    large for it are read in smaller blocks."""
    block_rows: int | None = Field(default=None, gt=0)
    """Rows of a row group that are decoded, and shuffled, together; part of the order. Left out: 32,768, or as many as
    `memory` has room for, measured at the first start. Row groups of up to so many rows are one block."""
    threads: int = Field(default=2, gt=0, le=256)
    """Threads of each rank that read, decode and gather batches."""
    evaluation_batch_size: int | None = Field(default=None, gt=0, le=1 << 30)
    """Rows of one evaluation batch over all ranks; as in training where left out."""
    on_bad_file: OnBadFile = "fail"
    """fail: a training file that is truncated, corrupt or gone ends the run. skip: one that is unreadable at the start
    is left out of the dataset, and a row group found unreadable later is replaced by rows of weight 0. Evaluation
    always fails: a metric on part of the test set is another metric."""
    bad_row_groups: int = Field(default=10, ge=0)
    """Row groups that may be unreadable before the run stops, over all ranks and the whole start; with
    `on_bad_file = "skip"`."""
    on_bad_value: OnBadValue = "fail"
    """fail: a training row with a value that cannot be used (a label that is none, an id that has no row, a number
    beyond float32) ends the run. skip: it weighs 0 and stays in its place. Evaluation and prediction always fail,
    except on windows of the training data."""
    bad_values_per_million: float = Field(default=100, ge=0, le=10**6)
    """Rows with bad values, of each million trained in this start over all ranks, beyond which the run stops; 10 are
    always allowed. With `on_bad_value = "skip"`."""

    @property
    def train_source(self) -> Source:
        """Where the training data lies."""
        return source_of(self.train, self.where, self.complete)

    @property
    def test_source(self) -> Source | None:
        """Where the test data lies, if there is any."""
        return None if self.test is None else source_of(self.test, self.test_where)


@dataclass(frozen=True)
class Reading:
    """How a dataset is read: everything that fixes the content of each global batch."""

    manifest: Manifest
    columns: Columns
    global_batch_size: int
    lanes: int
    order: OrderName
    seed: int
    keep_last: bool = False
    """true: the rows that do not fill a last global batch come in one padded with rows of weight 0."""
    on_bad_file: OnBadFile = "fail"
    """skip: a row group that cannot be read comes as rows of weight 0."""
    on_bad_value: OnBadValue | None = None
    """skip: a row with a bad value comes as a row of weight 0. None: it is an error, and may not be skipped."""
    block_rows: int | None = None
    """A row group with more rows is read, and its rows are shuffled, in blocks of so many; None: as a whole."""

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of one pass."""
        rows = self.manifest.num_rows
        size = self.global_batch_size
        return -(-rows // size) if self.keep_last else rows // size

    @property
    def dropped_rows(self) -> int:
        """Rows of each pass that do not fill a last global batch."""
        return 0 if self.keep_last else self.manifest.num_rows % self.global_batch_size

    @property
    def rows_per_lane(self) -> int:
        """Rows that each lane gives to a global batch."""
        return self.global_batch_size // self.lanes
