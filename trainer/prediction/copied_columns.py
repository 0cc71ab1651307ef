"""Columns of the input that are copied into the predictions: `adatt predict --columns`."""

from collections.abc import Iterator

import pyarrow as pa

from data.columns.kinds import common_type
from data.columns.types import columns_there
from data.errors import DataError, one_line
from data.manifest import Manifest
from data.pipeline.blocks import BlockReader
from data.pipeline.row_groups import tasks_of_epoch
from data.prefetch import Prefetcher
from data.reading import Reading
from models.tasks import TaskConfig
from trainer.errors import ConfigError

ROW_COLUMN = "row"


def parse_columns(text: str, manifest: Manifest, tasks: tuple[TaskConfig, ...]) -> dict[str, str]:
    """The columns to copy, as in `a,b as c`: their names in the input, by their names in the output.

    Raises ConfigError if one of them cannot be copied.
    """
    copied: dict[str, str] = {}
    taken = {ROW_COLUMN: "the number of the row"}
    taken.update((task.name, "a task's prediction") for task in tasks)

    for entry in filter(None, map(str.strip, text.split(","))):
        name, new_name = _parse_entry(entry, manifest)

        if new_name in taken:
            raise ConfigError(
                f"--columns: {new_name!r} is {taken[new_name]} in the output; give the column another name: "
                f"'{name} as input_{new_name}'"
            )

        copied[new_name] = name
        taken[new_name] = "another column"

    return copied


def _parse_entry(entry: str, manifest: Manifest) -> tuple[str, str]:
    """The name in the input and the one in the output; raises ConfigError if the input has no such column."""
    name = entry
    new_name = entry

    # A column may itself be called `a as b`.
    if not manifest.has(entry):
        before, _, after = entry.partition(" as ")
        name = before.strip()
        new_name = after.strip() or name

    if not manifest.has(name):
        raise ConfigError(f"--columns: no column {name!r} in {manifest.uri}; {columns_there(manifest, name)}")

    if manifest.schema.names.count(name) > 1:
        raise ConfigError(f"--columns: two columns of {manifest.uri} are called {name!r}; rename one")

    return name, new_name


def output_schema(manifest: Manifest, tasks: tuple[TaskConfig, ...], copied: dict[str, str]) -> pa.Schema:
    """Columns of the output: the row's number, a prediction for each task, and the copied columns."""
    row = (ROW_COLUMN, pa.int64())
    predictions = [(task.name, pa.float32()) for task in tasks]
    columns = [(new_name, common_type(manifest, name)) for new_name, name in copied.items()]
    return pa.schema([row, *predictions, *columns])


class CopiedColumns:
    """Columns of a lane's rows as they are in the input, read ahead in a thread."""

    def __init__(self, reading: Reading, lane: int, names: list[str], types: list[pa.DataType]) -> None:
        self._tables = Prefetcher(_read_lane(reading, lane, names, types), depth=1)
        self._held: list[pa.Table] = []
        """Read and not yet taken."""
        self._held_rows = 0
        self._held_bytes = 0

    def reach(self, num_rows: int) -> int:
        """Reads until the next `num_rows` rows are held; returns about how many bytes these take.

        Raises DataError if they cannot be read.
        """
        while self._held_rows < num_rows:
            table = next(self._tables)
            self._held.append(table)
            self._held_rows += table.num_rows
            self._held_bytes += table.nbytes
        return self._held_bytes * num_rows // self._held_rows

    def take(self, num_rows: int) -> list[pa.ChunkedArray]:
        """The columns of the next `num_rows` rows, which must be held."""
        held = pa.concat_tables(self._held)
        rest = held.slice(num_rows)
        self._held = [rest]
        self._held_rows = rest.num_rows
        self._held_bytes = rest.nbytes
        return held.slice(0, num_rows).columns

    def close(self) -> None:
        """Ends the thread."""
        self._tables.close()


def _read_lane(reading: Reading, lane: int, names: list[str], types: list[pa.DataType]) -> Iterator[pa.Table]:
    """The lane's rows in its order, a part of one row group at a time; columns are named by their numbers."""
    # In the output two columns may come from one column of the input, so its name does not tell them apart.
    numbers = [str(number) for number in range(len(names))]
    blocks = BlockReader(reading.manifest, names)
    for task in tasks_of_epoch(reading, range(lane, lane + 1), 0, 0):
        table = blocks.read(task)
        where = reading.manifest.describe(task.group)
        columns = []
        for name, kind in zip(names, types, strict=True):
            columns.append(_cast(table[name], kind, name, where))

        block = pa.table(columns, names=numbers)
        yield block.slice(task.start - task.block.start, task.stop - task.start)


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    """The column in the type that the values of all files share; raises DataError if a value does not fit."""
    if column.type == kind:
        return column

    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        reason = one_line(error)
        raise DataError(
            f"{where}: column {name!r} does not fit into {kind}, as which all files share it ({reason}); "
            "write all files alike"
        ) from error
