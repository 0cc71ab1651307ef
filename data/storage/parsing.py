"""JSON and TOML that someone else may have written. Both parsers give up on thousands of brackets in their own way."""

import json
import tomllib
from typing import Any

_TOO_DEEP = "nested too deeply"


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError if the text is not JSON, or is nested too deeply to be ours."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def parse_toml(text: str) -> dict[str, Any]:
    """Raises TOMLDecodeError if the text is not TOML, or is nested too deeply to be a config."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise tomllib.TOMLDecodeError(_TOO_DEEP) from error
