"""Templates of jobs are filled in: `{{name}}` stands for a value."""

import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent / "templates"
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_BLOCK = re.compile(r"( *)\{\{(\w+)\}\}")


def fill(template: str, values: Mapping[str, object]) -> str:
    """The file `template` with its values.

    One that has a line to itself may be a block: every line of it is indented alike. An empty one takes its line along.
    """
    filled: list[str] = []
    for line in (FOLDER / template).read_text(encoding="utf-8").splitlines():
        block = _BLOCK.fullmatch(line)
        if block:
            filled += [f"{block[1]}{part}" if part else "" for part in str(values[block[2]]).splitlines()]
        else:
            filled.append(_PLACE.sub(lambda place: str(values[place[1]]), line))

    return "".join(f"{line}\n" for line in filled)
