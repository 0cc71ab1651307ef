"""`schema.json` beside a dataset: what each column is, so that an output is never trained on as a feature by mistake.

    OUT/schema.json
    OUT/train/*.parquet
    OUT/test/*.parquet

It is optional: a dataset without one is used as its owner's config says.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from data.storage.parsing import parse_json

Role = Literal["feature", "label", "oracle", "time", "key"]
"""feature: known before the impression. label: an output. oracle: the true conditional mean of a label (synthetic data
only). time: when the impression happened; may be used as a feature. key: identifies the row."""

SCHEMA_FILE = "schema.json"
ORACLE_PREFIX = "oracle_"
"""A synthetic dataset stores the true conditional mean of label `x` in column `oracle_x`; never a feature."""


@dataclass(frozen=True)
class Column:
    """One column of a dataset."""

    name: str
    type: str
    """Arrow type as text: int64, float, list<item: int64>, string …"""
    role: Role
    description: str
    cardinality: int | None = None
    """For ids: one more than the largest id, which is the number of rows a table needs without hashing."""


def dump_schema(columns: list[Column]) -> str:
    """The text of `schema.json`."""
    return json.dumps({"columns": [asdict(column) for column in columns]}, indent=2) + "\n"


def parse_schema(text: str) -> dict[str, Column]:
    """Columns by name; raises ValueError, KeyError or TypeError if the text is not a schema."""
    return {entry["name"]: Column(**entry) for entry in parse_json(text)["columns"]}
