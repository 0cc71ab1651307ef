"""Which columns of the log become inputs, labels and weights, and how: the user's side of decoding."""

from typing import Literal

from pydantic import Field, model_validator

from data.settings import Settings

Transform = Literal["none", "log1p"]


class DenseFeature(Settings):
    """A numeric column, read as (transform(x) - mean) / scale; null becomes 0 after that."""

    column: str
    """Column of the dataset."""
    transform: Transform | None = None
    """log1p: sign(x)·log(1 + |x|), for counts and durations with heavy tails. Left out along with mean and scale: log1p
    where a training row lies more than 10 standard deviations from the mean, else none; it is then part of the run."""
    mean: float | None = None
    """Subtracted after the transform; left out: the column's mean, measured on training rows at the first start."""
    scale: float | None = Field(default=None, gt=0)
    """Divides after the transform; left out: the column's standard deviation, measured likewise. With mean = 0 and
    scale = 1 the column is taken as it is."""


class SparseFeature(Settings):
    """A column of ids (int or string, one or a list per row) looked up in an embedding table and pooled."""

    column: str
    """Column of the dataset."""
    table: str
    """Name of a `[[tables]]` entry; several features may share one."""
    name: str = Field(default_factory=lambda values: values.get("column", ""))
    """Name of the feature; the column's name where it is left out. Needed where one column feeds two tables."""
    hash: bool = False
    """true: ids are folded into the table's rows by a stable hash. false: an id outside 0 … rows-1 is an error.
    Strings always need it."""
    boundaries: tuple[float, ...] = ()
    """For a numeric column: its value becomes the number of boundaries that are ≤ it, 0 … len(boundaries)."""

    @model_validator(mode="after")
    def _boundaries_ascend(self) -> "SparseFeature":
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError("boundaries must ascend strictly")
        if self.boundaries and self.hash:
            raise ValueError("hash and boundaries exclude each other: a bucket number needs no hashing")
        return self


class Features(Settings):
    """Inputs of the model, in the order in which they are concatenated: embeddings, then dense."""

    sparse: tuple[SparseFeature, ...] = ()
    dense: tuple[DenseFeature, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns that the features read, each once."""
        sparse = [feature.column for feature in self.sparse]
        dense = [feature.column for feature in self.dense]
        return list(dict.fromkeys(sparse + dense))
