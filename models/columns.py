"""Which columns of a head's input belong to which feature.

features_BF:  embedding of sparse feature 0 | of sparse feature 1 | … | dense feature 0 | …
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from data.features import Features
from models.tables import TableConfig


@dataclass(frozen=True)
class Columns:
    """Names and widths of the features that a head reads, in order."""

    names: tuple[str, ...]
    widths: tuple[int, ...]

    @property
    def width(self) -> int:
        """Columns in all."""
        return sum(self.widths)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The first column of each feature, and the one behind its last."""
        return list(pairwise(accumulate(self.widths, initial=0)))

    def spans_of(self, names: Collection[str]) -> list[tuple[int, int]]:
        """The same of some features, in the order of the columns; neighbours are one span."""
        merged: list[tuple[int, int]] = []
        for name, (first, end) in zip(self.names, self.spans, strict=True):
            if name not in names:
                continue
            if merged and merged[-1][1] == first:
                first = merged.pop()[0]
            merged.append((first, end))
        return merged


def columns_of(tables: Sequence[TableConfig], features: Features) -> Columns:
    """As the feature layer lays them out; a dense feature has the name of its column."""
    dims = {table.name: table.dim for table in tables}
    sparse = [(feature.name, dims[feature.table]) for feature in features.sparse]
    dense = [(feature.column, feature.width) for feature in features.dense]
    features_in_order = sparse + dense
    return Columns(tuple(name for name, _ in features_in_order), tuple(width for _, width in features_in_order))


def unnamed_columns(width: int) -> Columns:
    """`feature 0`, `feature 1` and so on, of one column each: for inputs that are drawn."""
    return Columns(tuple(f"feature {number}" for number in range(width)), (1,) * width)
