"""Which columns of a head's input belong to which feature.

    features_BF:  embedding of sparse feature 0 | of sparse feature 1 | … | dense feature 0 | …

A head may want several embeddings of each id (`HeadConfig.embeddings_per_id`). A table then holds them side by side in
each row, and the first ones of all features come before the second ones.
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
    """A sparse feature stands here as often as an id has embeddings."""
    widths: tuple[int, ...]
    embeddings_per_id: int = 1
    dense_width: int = 0

    @property
    def width(self) -> int:
        """Columns in all."""
        return sum(self.widths)

    @property
    def embedding_width(self) -> int:
        """Columns of one embedding of every sparse feature."""
        return (self.width - self.dense_width) // self.embeddings_per_id

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


def columns_of(tables: Sequence[TableConfig], features: Features, embeddings_per_id: int = 1) -> Columns:
    """As the feature layer lays them out; a dense feature has the name of its column.

    `tables`: as they are held, with all embeddings of an id in a row.
    """
    dims = {table.name: table.dim // embeddings_per_id for table in tables}
    names = [feature.name for feature in features.sparse] * embeddings_per_id
    widths = [dims[feature.table] for feature in features.sparse] * embeddings_per_id
    names += [feature.column for feature in features.dense]
    widths += [feature.width for feature in features.dense]
    return Columns(tuple(names), tuple(widths), embeddings_per_id, features.dense_width)


def unnamed_columns(width: int, embeddings_per_id: int = 1) -> Columns:
    """`feature 0`, `feature 1` and so on, of one column each: for inputs that are drawn.

    Where an id has several embeddings, what cannot be divided evenly among them is dense.
    """
    names = tuple(f"feature {number}" for number in range(width))
    return Columns(names, (1,) * width, embeddings_per_id, width % embeddings_per_id)
