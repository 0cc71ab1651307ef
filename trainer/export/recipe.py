"""`features.json`: how a raw row of the log becomes the ids and numbers that the model reads, for any language.

`standalone/features.py` reads it; `features.schema.json` describes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from data.columns.ids import seed_bits
from data.columns.kinds import kind_of, stored_type
from data.columns.types import element_type
from data.columns.vocabulary import Vocabulary
from data.features import DenseFeature, Part, SparseFeature, Transform
from data.manifest import Manifest
from data.settings import Settings
from trainer.config.run_config import Config
from trainer.datasets import build_columns

Way = Literal["value", "hash", "cross", "vocabulary", "boundaries", "parts"]


class ColumnRecipe(Settings):
    """A column of the log."""

    kind: str
    """integer, number, text, time, or a list of one of these: what the training data held. Equal values of another kind
    are other ids: text is hashed, so that 7 and "7" differ. null: it held nothing."""
    float32: bool
    """Whether it was stored in float32, as which its values are compared with boundaries."""
    missing: Literal["error", "null"]
    """What a row without the column means."""


class SparseRecipe(Settings):
    """A sparse feature: values → rows of an embedding table."""

    name: str
    columns: tuple[str, ...]
    """One, or those of a cross."""
    table: str
    rows: int
    """Of the table."""
    way: Way
    """value: an id is its row.
    hash: mix(id ^ x) % rows, for each x of `xor` in order; text is first its XXH3-64, seed 0, of its bytes.
    cross: c = 0; for each column c = mix(c ^ mix(id)), or mix(c ^ 0x6E756C6C) for null; then c is hashed.
    vocabulary: unknown_rows + the id's place in `vocabulary`; mix(id) % unknown_rows for an id that is not in it.
    boundaries: how many of them are ≤ the value.
    parts: one id for each part, each after all those of the parts before it."""
    xor: tuple[str, ...] = ()
    """64-bit numbers, hexadecimal."""
    vocabulary: str | None = None
    """A .npy file of 64-bit ids, in order; those of text are its hash."""
    unknown_rows: int = 0
    boundaries: tuple[float, ...] = ()
    parts: tuple[Part, ...] = ()
    timezone: str = "UTC"
    first: int | None = None
    """Of a list: only so many ids from its begin, nulls left out."""
    last: int | None = None
    """The same from its end."""
    weights: str | None = None
    """A column of as many numbers, which the ids' embeddings are multiplied by."""


class DenseRecipe(Settings):
    """A dense feature: float32 of (transform(x) - mean) / scale, computed in float64; 0 where x is missing."""

    column: str
    since: str | None
    """x is the time from this column to `column`, in days."""
    size: int | None
    """Numbers of a list; null: one number."""
    fill: float | None
    """In place of null, NaN and infinite values."""
    clip: tuple[float, float] | None
    """Smallest and largest x, before the transform."""
    transform: Transform
    """log1p: sign(x)·log(1 + |x|); sqrt: sign(x)·√|x|."""
    mean: float
    scale: float


class Constants(Settings):
    """What hashing rests on; numbers are of 64 bits and wrap."""

    mix: str = (
        "z = x + 0x9E3779B97F4A7C15; z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9; "
        "z = (z ^ (z >> 27)) * 0x94D049BB133111EB; z ^ (z >> 31)"
    )
    text: str = "XXH3-64, seed 0, of UTF-8 bytes"
    remainder: str = "of unsigned numbers"


class Recipe(Settings):
    """`features.json`. The order of the features is that of the model's inputs."""

    format: Literal[1] = 1
    constants: Constants = Constants()
    columns: dict[str, ColumnRecipe]
    sparse: tuple[SparseRecipe, ...]
    dense: tuple[DenseRecipe, ...]


def build_recipe(config: Config, trained_on: Manifest) -> Recipe:
    """The recipe of a run's features, whose training data's columns say what kind each value is."""
    columns = build_columns(config)
    described = {}
    for name in config.features.columns:
        may_lack = name in columns.may_lack
        kind = stored_type(trained_on, name, as_number=True, may_lack=may_lack)
        described[name] = ColumnRecipe(
            kind=kind_of(kind),
            float32=pa.types.is_float32(element_type(kind)),
            missing="null" if may_lack else "error",
        )
    rows = {table.name: table.rows for table in config.tables}
    return Recipe(
        columns=described,
        sparse=tuple(_sparse(feature, rows[feature.table]) for feature in config.features.sparse),
        dense=tuple(_dense(feature) for feature in config.features.dense),
    )


def vocabulary_file(table: str) -> str:
    """Its path in the export."""
    return f"vocabularies/{table}.npy"


def write_vocabularies(folder: Path, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Each as 64-bit ids in the order of their rows."""
    for table, vocabulary in vocabularies.items():
        path = folder / vocabulary_file(table)
        path.parent.mkdir(exist_ok=True)
        np.save(path, vocabulary.ids_N.astype("<i8"))


def _sparse(feature: SparseFeature, rows: int) -> SparseRecipe:
    has_xor = feature.is_hashed
    return SparseRecipe(
        name=feature.name,
        columns=feature.cross or (feature.column,),
        table=feature.table,
        rows=rows,
        way=_way(feature),
        xor=tuple(f"{int(seed_bits(feature.seed + index)):#018x}" for index in range(feature.hashes))
        if has_xor
        else (),
        vocabulary=vocabulary_file(feature.table) if feature.vocabulary else None,
        unknown_rows=feature.unknown_rows if feature.vocabulary else 0,
        boundaries=feature.edges,
        parts=feature.parts,
        timezone=feature.timezone,
        first=feature.first,
        last=feature.last,
        weights=feature.weights,
    )


def _way(feature: SparseFeature) -> Way:
    ways: dict[Way, bool] = {
        "cross": bool(feature.cross),
        "hash": feature.hash,
        "vocabulary": bool(feature.vocabulary),
        "boundaries": feature.is_bucketed,
        "parts": bool(feature.parts),
    }
    return next((way for way, used in ways.items() if used), "value")


def _dense(feature: DenseFeature) -> DenseRecipe:
    return DenseRecipe(
        column=feature.column,
        since=feature.since,
        size=feature.size,
        fill=feature.fill,
        clip=feature.clip,
        transform=feature.transform or "none",
        mean=feature.mean or 0.0,
        scale=feature.scale or 1.0,
    )
