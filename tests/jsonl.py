"""JSONL files written by hand: records as the trainer writes them, or would never write them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
