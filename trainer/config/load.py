"""A config is loaded: TOML and `--set` changes to it become a checked `Config`, or one line that says what is wrong."""

import json
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from data.storage.parsing import parse_toml
from data.storage.paths import full_path
from models.balancers import METHODS
from models.heads import HEADS
from trainer.config.rules import nearest
from trainer.config.run_config import Config
from trainer.errors import ConfigError

_KINDS: dict[int | str, tuple[str, Mapping[str, type[BaseModel]]]] = {
    "model": ("head", HEADS),
    "balance": ("method", METHODS),
}
"""Sections of several kinds: the key that names the kind, and the kinds."""
_TRIED = re.compile(r"(str|tuple\[.*|function-after\[.*)$")


def load_config(path: str | Path, changes: list[str] | None = None) -> Config:
    """The config at `path` with `--set` changes applied; ConfigError, in one line, for anything wrong in either."""
    return parse_config(changed_values(path, changes or []), str(path))


def changed_values(path: str | Path, changes: Sequence[str]) -> dict[str, Any]:
    """What the TOML file holds, with the changes; ConfigError if it cannot be read, or a change has no place."""
    try:
        text = full_path(path).read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
        values = parse_toml(text)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text, so not TOML ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except ValueError as error:
        raise ConfigError(f"CONFIG {error}") from error

    for change in changes:
        _apply(values, change)

    return values


def parse_config(values: dict[str, Any], source: str) -> Config:
    """The config in parsed TOML; ConfigError names the key."""
    try:
        return Config.model_validate_json(json.dumps(values, default=str), strict=True)
    except RecursionError as error:
        raise ConfigError(f"{source}: nested too deeply to be a config") from error
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error)}") from error


def _apply(values: dict[str, Any], change: str) -> None:
    path, equals, text = change.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {change!r}: write KEY.PATH=VALUE, such as train.samples=300k")

    target: Any = values
    try:
        for key in keys[:-1]:
            target = target[int(key)] if isinstance(target, list) else target.setdefault(key, {})
        last: Any = int(keys[-1]) if isinstance(target, list) else keys[-1]
        target[last] = toml_value(text.strip())
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--set {change!r}: the config has no place {path!r}; list entries are numbered from 0"
        ) from error


def toml_value(text: str) -> Any:
    """A TOML value, or a bare word taken as a string."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def toml_text(text: str) -> str:
    """A string as TOML has it, in quotes."""
    return json.dumps(text, ensure_ascii=False)  # a pair of escapes for one character is no TOML


def _explain(error: ValidationError) -> str:
    """The first problem in one line: key, what is wrong, the value found."""
    problems = error.errors()
    unknown_keys = [entry for entry in problems if entry["type"] == "extra_forbidden"]
    rules_broken = [entry for entry in problems if entry["type"] == "value_error"]
    problem = (unknown_keys or rules_broken or problems)[0]
    found = problem["input"]
    place = problem["loc"]
    key = ".".join(str(part) for part in _config_path(place))
    if problem["type"] == "extra_forbidden" and place[0] in _KINDS and (users := _users_of(place)):
        tag, _ = _KINDS[place[0]]
        return f"key {key!r} is not used by {tag} {place[1]!r}; remove it ({tag}s that use it: {', '.join(users)})"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {nearest(str(place[-1]), _known_keys(place))}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    if problem["type"] == "union_tag_invalid":
        tag, _ = _KINDS[key]
        return f"{key}.{tag}: unknown {tag} {problem['ctx']['tag']!r}; choose from {problem['ctx']['expected_tags']}"
    if problem["type"] == "union_tag_not_found":
        tag, kinds = _KINDS[key]
        return f"{key}.{tag} is missing; choose from {', '.join(map(repr, kinds))}"

    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message

    says_it_all = problem["type"] == "value_error" or isinstance(found, dict | BaseModel)
    shown = "" if says_it_all else f", not {found!r}"
    return f"{key}: {message[0].lower()}{message[1:]}{shown}"


def _users_of(place: tuple[int | str, ...]) -> list[str]:
    """Names of the heads, or methods, that have a key which another has not."""
    _, kinds = _KINDS[place[0]]
    return [name for name, kind in kinds.items() if place[-1] in kind.model_fields]


def _config_path(place: tuple[int | str, ...]) -> list[int | str]:
    """The key as the user writes it: pydantic puts the head's name behind `model`, the method's behind `balance`, a tag
    behind task_experts, and the type that it tried behind a key of several types.
    """
    if not place or place[0] not in _KINDS:
        return [part for part in place if not (isinstance(part, str) and _TRIED.match(part))]
    added = {1, 3} if "task_experts" in place else {1}
    return [part for index, part in enumerate(place) if index not in added]


def _known_keys(place: tuple[int | str, ...]) -> set[str]:
    """The keys that the section at place[:-1] knows."""
    candidates: list[type[BaseModel]] = [Config]
    for part in place[:-1]:
        fields = candidates[0].model_fields
        if part in fields:
            candidates = _models_in(fields[str(part)].annotation)
        elif isinstance(part, str):  # the name of a head or method
            _, kinds = _KINDS[place[0]]
            candidates = [kinds[part]]

    return {field.alias or name for name, field in candidates[0].model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        return [annotation]

    if get_origin(annotation) not in (Annotated, Union, tuple, types.UnionType):
        return []

    models: list[type[BaseModel]] = []
    for part in get_args(annotation):
        models += _models_in(part)

    return models
