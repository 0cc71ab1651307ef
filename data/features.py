"""Which columns of the log become inputs, labels and weights, and how: the user's side of decoding."""

from typing import Literal

from pydantic import Field, model_validator

from data.settings import Settings


class DenseFeature(Settings):
    """A numeric column, read as (transform(x) - mean) / scale in float32; null becomes 0 after that."""

    column: str
    """Column of the dataset."""
    transform: Literal["none", "log1p"] = "none"
    """log1p: sign(x)·log(1 + |x|), for counts and durations with heavy tails."""
    mean: float = 0.0
    """Subtracted after the transform; the training data's mean makes the feature centred."""
    scale: float = Field(default=1.0, gt=0)
    """Divides after the transform; the training data's standard deviation makes the feature unit scale."""


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
        return list(dict.fromkeys(sparse + [feature.column for feature in self.dense]))
