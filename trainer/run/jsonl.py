"""The JSONL files of a run: one record a line, of which a kill can cut short the last."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from data.storage.files import naming, open_unlinked, replace_text
from data.storage.parsing import parse_json
from trainer.errors import ConfigError


def append_records(path: Path, records: Iterable[BaseModel]) -> None:
    """Adds lines to a JSONL file."""
    with naming(path), open(path, "a", encoding="utf-8", opener=open_unlinked) as file:
        file.writelines(json_line(record) for record in records)


def json_line(record: BaseModel) -> str:
    """A record as a line of JSON, with NaN and Infinity as they are."""
    values = record.model_dump(mode="json")
    return json.dumps(values) + "\n"


def whole_lines(path: Path) -> list[str]:
    """The lines of a JSONL file but one that a kill cut short; none where there is no file. ConfigError: unreadable."""
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); restore it from a copy, or fix its permissions"
        ) from error


def rewrite_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Replaces a JSONL file in one step."""
    replace_text(path, "".join(json.dumps(record) + "\n" for record in records))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file but a last line that a crash cut short. Raises ConfigError if the file is damaged."""
    records = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            record = parse_json(line)
            if not isinstance(record, dict) or not isinstance(record.get("samples"), int):
                raise ValueError("it has no samples")
            records.append(record)
        except ValueError as error:
            raise ConfigError(
                f"{path}: line {number} is not a record ({error}); restore the file from a copy"
            ) from error

    return records
