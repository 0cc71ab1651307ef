"""Which columns of the log become inputs, labels and weights, and how: the user's side of decoding."""

import re
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from data.settings import Settings
from data.storage.uris import refuse_credentials

Transform = Literal["none", "log1p", "sqrt"]
Missing = Literal["error", "null"]
"""What it means that a file of the dataset lacks a column: an error, or null in all of its rows."""
Part = Literal["minute", "hour", "day_of_week", "day", "month"]
PART_SIZES: dict[Part, int] = {"minute": 60, "hour": 24, "day_of_week": 7, "day": 31, "month": 12}
"""Values that each part of a time has."""


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone that this machine knows; write one as in Europe/Berlin") from error
    return name


def _quantiles(text: str) -> str:
    if not re.fullmatch(r"quantiles:[1-9]\d{0,3}", text):
        raise ValueError(f'{text!r} is no list of numbers, nor as in "quantiles:20"')
    return text


def _location(text: str) -> str:
    refuse_credentials(text)
    return text


def _measured(value: object) -> object:
    return None if value == "auto" else value


Measured = BeforeValidator(_measured)
"""Of a key that may be left out, to be measured; `"auto"` says so."""


class DenseFeature(Settings):
    """A numeric column, read as (transform(x) - mean) / scale; null becomes 0 after that."""

    column: str
    """Column of the dataset: one of its files, or a key of their folders, as in dt=2022-04-25. A path leads into
    structs: user.geo.city."""
    size: int | None = Field(default=None, gt=0, le=1 << 16)
    """For a list column, such as an embedding made elsewhere: how many numbers each row has. Transform, mean and scale
    are the same for all of them."""
    since: str | None = None
    """Another column of times: the feature is the time from that to `column`, in days."""
    missing: Missing = "error"
    """A file that lacks the column: an error, or null in all of its rows."""
    fill: float | None = None
    """Read in place of null, NaN and ±inf; left out: these become 0 after mean and scale."""
    clip: tuple[float, float] | None = None
    """Smallest and largest value, before the transform: what lies beyond becomes the nearest of them."""
    transform: Annotated[Transform | None, Measured] = None
    """log1p: sign(x)·log(1 + |x|), for counts and durations with heavy tails; sqrt: sign(x)·√|x|. Left out along with
    mean and scale, or "auto": log1p where a training row lies more than 10 standard deviations from the mean, or all
    are alike, else none; it is then part of the run."""
    mean: Annotated[float | None, Measured] = None
    """Subtracted after the transform; left out, or "auto": the column's mean, measured on training rows at the first
    start."""
    scale: Annotated[float | None, Field(gt=0), Measured] = None
    """Divides after the transform; left out, or "auto": the column's standard deviation, measured likewise. With
    mean = 0 and scale = 1 the column is taken as it is."""

    @model_validator(mode="after")
    def _check(self) -> "DenseFeature":
        if self.clip and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip of column {self.column!r}: the smallest value comes first, the largest second")
        if self.since and self.size:
            raise ValueError(f"column {self.column!r}: since and size exclude each other")
        return self

    @property
    def columns(self) -> list[str]:
        """What it reads."""
        return [self.column, self.since] if self.since else [self.column]

    @property
    def width(self) -> int:
        """Inputs of the model."""
        return self.size or 1


class SparseFeature(Settings):
    """A column of ids (int or string, one or a list per row) looked up in an embedding table and pooled."""

    column: str = ""
    """Column of the dataset: one of its files, or a key of their folders. A path leads into structs (user.geo.city),
    the structs of a list (items.id) and maps (scores.key)."""
    table: str
    """Name of a `[[tables]]` entry; several features may share one."""
    cross: tuple[str, ...] = ()
    """In place of `column`: two or more columns of one id each, whose combination is the id; it is hashed."""
    name: str = Field(default_factory=lambda values: values.get("column") or " x ".join(values.get("cross", ())))
    """Name of the feature; the column's name where it is left out. Needed where one column feeds two tables."""
    missing: Missing = "error"
    """A file that lacks a column: an error, or null in all of its rows."""
    hash: bool = False
    """true: ids are folded into the table's rows by a stable hash. false: an id outside 0 … rows-1 is an error.
    Text needs it, or a vocabulary."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Of the hash: another seed lets other ids share a row."""
    hashes: int = Field(default=1, gt=0, le=16)
    """Rows of each id, by as many hashes, whose embeddings are pooled: two ids are seldom alike in all of them."""
    vocabulary: Annotated[str, AfterValidator(_location)] = ""
    """Ids, numbers or text, that have a row of the table each: a Parquet file with them in a column `value`, the first
    for row `unknown_rows`, the next for the row after it; or "auto": those of the training data, the most frequent
    first, as many as the table has rows for, counted at the first start. The run keeps it."""
    unknown_rows: int = Field(default=1, ge=0, le=1 << 30)
    """With a vocabulary: how many of the table's first rows are for ids that are not in it, by their hash; 0: such an
    id is an error."""
    min_count: int = Field(default=1, gt=0)
    """With vocabulary = "auto": ids that occur less often get no row to themselves."""
    vocabulary_digest: str | None = None
    """Of the vocabulary that the run keeps; part of the resolved config."""
    boundaries: tuple[float, ...] | Annotated[str, AfterValidator(_quantiles)] = ()
    """For a numeric column: its value becomes the number of boundaries that are ≤ it, 0 … len(boundaries). With
    "quantiles:20" they are measured on training rows at the first start: 20 buckets of equally many rows, or fewer
    where many rows have one value."""
    quantiles: int | None = Field(default=None, gt=0)
    """How many buckets the measured boundaries were asked for; part of the resolved config."""
    parts: tuple[Part, ...] = ()
    """For a column of times or dates: these parts of it are the ids, each with rows of its own, in order: 60 of a
    minute, 24 of an hour, 7 of a day_of_week (Monday is the first), 31 of a day, 12 of a month."""
    timezone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    """In which `parts` are read, such as "Asia/Shanghai". Times without a zone are taken as UTC."""
    first: int | None = Field(default=None, gt=0)
    """Of a list: only so many ids, from its begin."""
    last: int | None = Field(default=None, gt=0)
    """Of a list: only so many ids, from its end."""
    weights: str | None = None
    """A list of numbers beside a list of ids: what each id's embedding is multiplied by before it is pooled. Of a map:
    column = "scores.key", weights = "scores.value"."""
    pooling: Literal["sum", "mean"] | None = None
    """How the embeddings of a row's ids become one; left out: as the table says. A mean is that of the weights, too."""

    @model_validator(mode="after")
    def _check(self) -> "SparseFeature":
        if bool(self.column) == bool(self.cross):
            raise ValueError("name its column, or in place of it the columns of a cross")
        if len(self.cross) == 1:
            raise ValueError(f"cross = [{self.cross[0]!r}] needs another column")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("boundaries must ascend strictly")
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts = {list(self.parts)} names one twice")
        self._check_excluded()
        return self

    def _check_excluded(self) -> None:
        """Raises ValueError for two keys that cannot be used together, or one without another."""
        if self.is_bucketed and self.hash:
            raise ValueError("hash and boundaries exclude each other: a bucket number needs no hashing")
        ways = {
            "cross": self.cross,
            "boundaries": self.is_bucketed,
            "parts": self.parts,
            "vocabulary": self.vocabulary,
        }
        used = [key for key, value in ways.items() if value]
        if len(used) > 1:
            raise ValueError(f"{used[0]} and {used[1]} exclude each other")
        if self.vocabulary and self.hash:
            raise ValueError("hash and vocabulary exclude each other: an id has a row by the one or by the other")
        if self.min_count > 1 and self.vocabulary != "auto":
            raise ValueError('min_count is for vocabulary = "auto": set that, or leave min_count out')
        if self.unknown_rows != 1 and not self.vocabulary:
            raise ValueError('unknown_rows are those of a vocabulary: set vocabulary = "auto", or leave them out')
        if self.parts and self.hash:
            raise ValueError("hash and parts exclude each other: a part's number needs no hashing")
        if (self.seed or self.hashes > 1) and not self.is_hashed:
            raise ValueError("seed and hashes are those of a hash: set hash = true, or leave them out")
        if self.first and self.last:
            raise ValueError("first and last exclude each other")
        of_lists = {"first": self.first, "last": self.last, "weights": self.weights}
        used += [key for key, value in of_lists.items() if value]
        if len(used) > 1 and used[0] in ("cross", "parts"):
            raise ValueError(f"{used[0]} and {used[1]} exclude each other: {used[1]} needs a list")

    @property
    def is_bucketed(self) -> bool:
        """Whether numbers become numbers of buckets."""
        return bool(self.boundaries)

    @property
    def edges(self) -> tuple[float, ...]:
        """The boundaries; none if they are still to be measured."""
        return () if isinstance(self.boundaries, str) else self.boundaries

    @property
    def asked_quantiles(self) -> int | None:
        """Buckets for which boundaries are still to be measured."""
        return int(self.boundaries.partition(":")[2]) if isinstance(self.boundaries, str) else None

    @property
    def is_hashed(self) -> bool:
        """Whether ids are folded into the table's rows."""
        return self.hash or bool(self.cross)

    @property
    def takes_any_id(self) -> bool:
        """Whether ids may be text, or numbers beyond the table's rows."""
        return self.is_hashed or bool(self.vocabulary)

    @property
    def columns(self) -> list[str]:
        """What it reads."""
        ids = list(self.cross) or [self.column]
        return [*ids, self.weights] if self.weights else ids

    @property
    def rows_needed(self) -> int:
        """Rows that its table must have; 0: it depends on the ids."""
        if self.parts:
            return sum(PART_SIZES[part] for part in self.parts)
        if self.vocabulary:
            return self.unknown_rows + 1
        return self.asked_quantiles or (len(self.edges) + 1 if self.edges else 0)


class Features(Settings):
    """Inputs of the model, in the order in which they are concatenated: embeddings, then dense."""

    sparse: tuple[SparseFeature, ...] = ()
    dense: tuple[DenseFeature, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns that the features read, each once."""
        columns = [column for feature in self.sparse for column in feature.columns]
        columns += [column for feature in self.dense for column in feature.columns]
        return list(dict.fromkeys(columns))

    @property
    def is_weighted(self) -> bool:
        """Whether ids have weights; those of features without `weights` are 1."""
        return any(feature.weights for feature in self.sparse)

    @property
    def dense_width(self) -> int:
        """Dense inputs of the model."""
        return sum(feature.width for feature in self.dense)
