"""Writes docs/configuration.md from the docstrings of the config classes: `python -m trainer.config.reference`."""

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from data.features import DenseFeature, SparseFeature
from data.reading import DataConfig
from models.balancers import METHODS
from models.balancers.settings import BalanceConfig
from models.heads import HEADS
from models.heads.base import HeadConfig
from models.tasks import TaskConfig
from trainer.config.changes import FREE_KEYS, FREE_SECTIONS
from trainer.config.run_config import CheckpointConfig, EvaluateConfig, LogConfig, RunConfig, TrainConfig
from trainer.config.warm_start import InitConfig
from trainer.sharding.settings import (
    DenseOptimizerConfig,
    ShardedTableConfig,
    ShardingConfig,
    SparseOptimizerConfig,
    TableOptimizerConfig,
)

SECTIONS: dict[str, type[BaseModel]] = {
    "[run]": RunConfig,
    "[data]": DataConfig,
    "[[features.sparse]]": SparseFeature,
    "[[features.dense]]": DenseFeature,
    "[[tables]]": ShardedTableConfig,
    "[tables.optimizer]": TableOptimizerConfig,
    "[[tasks]]": TaskConfig,
    "[model]": HeadConfig,
    "[balance]": BalanceConfig,
    "[init]": InitConfig,
    "[optimizer.dense]": DenseOptimizerConfig,
    "[optimizer.sparse]": SparseOptimizerConfig,
    "[sharding]": ShardingConfig,
    "[train]": TrainConfig,
    "[evaluate]": EvaluateConfig,
    "[checkpoint]": CheckpointConfig,
    "[log]": LogConfig,
}
CHOICES: dict[type[BaseModel], tuple[str, Mapping[str, type[BaseModel]], str, str]] = {
    HeadConfig: ("head", HEADS, "required", "heads"),
    BalanceConfig: ("method", METHODS, 'required; without `[balance]` `"constant"`', "balancing"),
}
"""(key, choices, default, page) of sections whose keys depend on one of them."""
INTRODUCTION = """\
# Configuration

A run is one TOML file; `configs/` holds two to start from. `--set section.key=value` changes a key on the command line
(a TOML value or a bare word; entries of lists by number: `--set tables.0.dim=32`). The resolved config, every default
filled in, is written to `RUN/config.toml`. Unknown keys are errors. Counts of samples may be written `300k`, `70B`.

Between starts of one run only these may change: {free}; `train.samples` only upwards, and where data lies only to the
same data elsewhere.

This page is made from the code: `.venv/bin/python -m trainer.config.reference > docs/configuration.md`.
"""

TYPE_NAMES = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Milestone": "count"}
"""What the types of keys are called on the page."""


def reference() -> str:
    """The page, in Markdown."""
    free = ", ".join(f"`{key}`" for key in (*FREE_SECTIONS, *FREE_KEYS))
    sections = [_section(title, model) for title, model in SECTIONS.items()]
    return "\n".join([INTRODUCTION.format(free=free), *sections])


def _section(title: str, model: type[BaseModel]) -> str:
    rows = [_row(field.alias or name, field) for name, field in model.model_fields.items()]
    if model in CHOICES:
        rows += _rows_of_choices(*CHOICES[model], set(model.model_fields))
    head = [f"## `{title}`", "", " ".join((model.__doc__ or "").split()), ""]
    return "\n".join([*head, "| key | type | default | meaning |", "|---|---|---|---|", *rows, ""])


def _rows_of_choices(
    key: str, choices: Mapping[str, type[BaseModel]], default: str, see: str, common: set[str]
) -> list[str]:
    """The key that chooses, and the keys that only some choices have, with the choices that have them."""
    rows = [f"| `{key}` | {' · '.join(f'`{name}`' for name in choices)} | {default} | See [{see}]({see}.md). |"]
    for own in dict.fromkeys(own for choice in choices.values() for own in choice.model_fields):
        if own not in common | {key}:
            described = [
                (name, _row(own, choice.model_fields[own]))
                for name, choice in choices.items()
                if own in choice.model_fields
            ]
            rows += _with_users(key, described)
    return rows


def _with_users(key: str, described: Sequence[tuple[str, str]]) -> list[str]:
    """A row for each meaning that a key has, with the choices in which it has it."""
    users: dict[str, list[str]] = {}
    for name, row in described:
        users.setdefault(row.removesuffix(" |"), []).append(name)
    return [f"{row} {key.capitalize()}s: {', '.join(names)}. |" for row, names in users.items()]


def _row(name: str, field: FieldInfo) -> str:
    if field.is_required():
        default = "required"
    else:
        is_left_out = field.default in (None, "", PydanticUndefined) or isinstance(field.default, BaseModel)
        default = "–" if is_left_out else f"`{_toml(field.default)}`"
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{name}` | {_kind(field.annotation)} | {default} | {meaning} |"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return " · ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin is Union or str(origin) == "<class 'types.UnionType'>":
        return " or ".join(_kind(part) for part in arguments if part is not type(None))

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"

    name = getattr(annotation, "__name__", "")
    return TYPE_NAMES.get(name, str(annotation))


if __name__ == "__main__":
    sys.stdout.write(reference())
