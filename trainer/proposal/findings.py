"""What a person should know of a dataset before training on it, a line each: `adatt inspect`."""

from collections.abc import Iterator

import numpy as np

from data.collisions import TOLD_SHARE
from data.columns.decode import Columns
from data.manifest import Manifest
from data.profile.column import ColumnProfile
from data.profile.dataset import DatasetProfile
from trainer.proposal.hashed import sharing
from trainer.proposal.leaks import leaks

FEW_ROWS, MANY_ROWS = 1_000, 1_000_000
"""Of row groups: smaller ones cost more to open than to read, larger ones stay open block after block."""
ENOUGH_GROUPS = 100
ALIKE = 0.001
"""Share of rows that repeat others, or are in the test set too, from which on it is told."""


def of_files(manifest: Manifest) -> Iterator[str]:
    """About row groups and files."""
    rows = manifest.rows[manifest.rows > 0]
    median = int(np.median(rows))
    if median < FEW_ROWS and len(rows) > ENOUGH_GROUPS:
        yield f"row groups are small ({median:,} rows, the median): with 16,000 to 64,000 rows they are read faster"
    if median > MANY_ROWS:
        yield f"row groups are large ({median:,} rows, the median): with 16,000 to 64,000 rows batches mix better"
    if len(manifest.schemas) > 1:
        yield f"files store their columns in {len(manifest.schemas)} ways; what they have in common can be read"
    if manifest.unread_note:
        yield manifest.unread_note


def of_columns(profile: DatasetProfile) -> Iterator[str]:
    """About columns that teach nothing, or cannot be read."""
    for path, column in profile.columns.items():
        if column.rows == column.nulls:
            yield f"column {path!r} has no value"
        elif column.num_values == 1 and not column.nulls:
            yield f"column {path!r} has one value in all rows"
        if column.not_finite:
            yield f"column {path!r} holds {column.not_finite:,} NaN or ±inf, which count as missing"
    for path, reason in profile.looked.left_out.items():
        yield f"column {path!r} cannot be read: {reason}"


def of_labels(profile: DatasetProfile, labels: list[str]) -> Iterator[str]:
    """About labels without positives, and columns that give one away."""
    for label in labels:
        column = profile.columns.get(label)
        if column is None:
            yield f"label {label!r} is no column that can be read"
        elif _is_constant(column):
            yield f"label {label!r} is {column.numbers.low:g} in all rows: nothing can be learned of it"
    binary = [label for label in labels if label in profile.columns and profile.columns[label].is_binary]
    for path, why in leaks(profile, binary).items():
        if path not in labels:
            yield f"column {path!r} may be a leak: {why}"


def of_ids(profile: DatasetProfile, columns: Columns) -> Iterator[str]:
    """About ids of a config that are not in their tables, and hashed ones that share rows."""
    for feature in columns.features.sparse:
        column = profile.columns.get(feature.column)
        if column is None or feature.is_bucketed or feature.parts or feature.vocabulary:
            continue
        rows = columns.table_rows[feature.table]
        if not feature.hash and column.kind != "text" and (column.numbers.low < 0 or column.numbers.high >= rows):
            ids = f"ids {column.numbers.low:.0f} to {column.numbers.high:.0f}"
            yield f"feature {feature.name!r} has {ids}, but table {feature.table!r} has {rows:,} rows"

    for table in sharing(profile, columns):
        if max(table.share_of_ids, table.share_of_lookups) >= TOLD_SHARE:
            ids = f"table {table.table!r} has {table.rows:,} rows for {table.ids:,} ids"
            shared = f"{table.share_of_ids:.1%} of them share a row with another"
            yield f"{ids}: {shared}, which {table.share_of_lookups:.1%} of the lookups meet; give it more rows"


def of_rows(train: DatasetProfile, test: DatasetProfile | None) -> Iterator[str]:
    """About rows that are alike."""
    if train.contents is None:
        return
    if train.contents.repeated >= ALIKE:
        yield f"{train.contents.repeated:.1%} of the rows repeat an earlier row in every column"
    if test is not None and test.contents is not None:
        share = test.contents.found_in(train.contents)
        if share >= ALIKE:
            yield f"{share:.1%} of the test rows are in the training data too, alike in every column"


def _is_constant(column: ColumnProfile) -> bool:
    return column.numbers.count > 0 and column.numbers.low == column.numbers.high
