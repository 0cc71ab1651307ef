"""What a checkpoint says of itself, apart from its tensors: `state.json`, with a digest of itself."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

import xxhash
from pydantic import TypeAdapter, ValidationError

from data.storage.parsing import parse_json
from trainer.run.starts import explain

FORMATS = (1, 2)
"""Formats of `state.json` that this program reads; it writes the last. The first has no id of the run."""


@dataclass(frozen=True)
class FileRecord:
    """A file of a checkpoint."""

    bytes: int
    digest: str
    """xxh3-128 of the content."""


@dataclass(frozen=True)
class State:
    """What a checkpoint says of itself, apart from the tensors."""

    samples: int
    pinned: bool
    """Kept for good: a milestone, or the end of a run."""
    segment: int
    """The start of the run that wrote it."""
    world_size: int
    plan: dict[str, str]
    """Sharding type of each table."""
    fingerprints: dict[str, str]
    """Of the datasets, by use: train, test."""
    config: dict[str, Any]
    """The resolved config."""
    log: dict[str, Any]
    """Sums of the log since its last record."""
    versions: dict[str, str]
    files: dict[str, FileRecord]
    run: str | None = None
    """Id of the run."""
    format: int = FORMATS[-1]

    def to_json(self) -> str:
        """One JSON object with a digest of itself."""
        values = asdict(self)
        return json.dumps(values | {"digest": _digest_of(values)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError if the text is not what `to_json` wrote."""
        values = parse_json(text)
        if not isinstance(values, dict) or "digest" not in values:
            raise ValueError("not the state of a checkpoint")
        if values.get("format") not in FORMATS:
            raise ValueError(f"has format {values.get('format')!r}, this program reads {FORMATS}")
        if values.pop("digest") != _digest_of(values):
            raise ValueError("does not match its own digest")

        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            raise ValueError(explain(error)) from error


def _digest_of(values: dict[str, Any]) -> str:
    try:
        text = json.dumps(values, sort_keys=True)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return xxhash.xxh3_128_hexdigest(text.encode())
