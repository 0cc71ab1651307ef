"""A config in words and numbers: what a dataset's profile leads to, with the reason beside each line.

profile ─► a choice for each column ─► TOML with comments ─► read back and checked, as `adatt train` would
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.manifest import Manifest, read_schema
from data.profile.column import ColumnProfile
from data.profile.dataset import DatasetProfile
from data.storage.files import replace_text
from data.storage.parsing import parse_toml
from trainer.config.load import parse_config
from trainer.errors import ConfigError
from trainer.proposal.choice import Choice, choose
from trainer.proposal.leaks import leaks
from trainer.proposal.split import Split

LANES = 8
SMALLEST_BATCH, LARGEST_BATCH = 512, 4096
ROWS_PER_BATCH = 100_000
"""A batch grows with the data: about so many rows of the data for each 512 rows of a batch."""


@dataclass(frozen=True)
class Proposal:
    """A config, checked."""

    text: str
    summary: str


def propose(manifest: Manifest, profile: DatasetProfile, labels: list[str], split: Split) -> Proposal:
    """The config for a dataset; ConfigError if a label is not there, or is no number."""
    if not labels:
        raise ConfigError("--label is missing: name a column to predict, once for each task")
    for label in labels:
        _check_label(label, profile, manifest)

    described = read_schema(manifest)
    leaking = leaks(profile, [label for label in labels if profile.columns[label].is_binary])
    choices: list[Choice] = []
    for path, column in profile.columns.items():
        if path in labels or (path.endswith(".value") and f"{path[: -len('value')]}key" in profile.columns):
            continue
        if path in manifest.keys and column.kind == "time":
            choices.append(Choice(path, "left out: the day of a folder"))
            continue
        choice = choose(path, column, described.get(path), _weights_of(path, profile))
        if (choice.sparse or choice.dense) and path in leaking:
            choice = Choice(path, f"left out: {leaking[path]}; is it known before the impression?")
        choices.append(choice)
    choices += [Choice(path, f"left out: {reason}") for path, reason in profile.looked.left_out.items()]

    if not any(choice.sparse for choice in choices):
        raise ConfigError(f"dataset {manifest.uri}: no column can be a sparse feature; a model needs at least one")
    text = _text(manifest, profile, labels, choices, split)
    parse_config(parse_toml(text), "the proposed config")
    used = sum(bool(choice.sparse or choice.dense) for choice in choices)
    tasks = f"{len(labels)} task{'s' if len(labels) > 1 else ''}"
    return Proposal(text, f"{manifest.num_rows:,} rows, {used} columns as features, {tasks}; test data: {split.reason}")


def write_proposal(proposal: Proposal, target: Path) -> None:
    """Writes a config; ConfigError if the file is there already."""
    if target.exists():
        raise ConfigError(f"--out {target} exists; name another file, or remove it")
    replace_text(target, proposal.text)


def _check_label(label: str, profile: DatasetProfile, manifest: Manifest) -> None:
    column = profile.columns.get(label)
    if column is None:
        there = ", ".join(profile.columns)
        raise ConfigError(f"--label {label!r}: no such column in {manifest.uri}; it has {there}")
    if column.kind not in ("integer", "number") or column.is_list:
        kind = f"list of {column.kind}" if column.is_list else column.kind
        raise ConfigError(f"--label {label!r} holds {kind}; a label is one number a row")
    if column.rows == column.nulls:
        raise ConfigError(f"--label {label!r} has no value in any row; name another")


def _weights_of(path: str, profile: DatasetProfile) -> str | None:
    """The values of a map whose keys are at `path`."""
    weights = f"{path[: -len('key')]}value"
    is_key = path.endswith(".key") and weights in profile.columns
    return weights if is_key and profile.columns[weights].kind in ("integer", "number") else None


def _text(manifest: Manifest, profile: DatasetProfile, labels: list[str], choices: list[Choice], split: Split) -> str:
    rows = manifest.num_rows
    milestones = [count for count in (rows // 10, rows // 3) if count > 0] + [rows]
    lines = [
        f"# Proposed by `adatt init` from {rows:,} rows of {manifest.uri}.",
        "",
        "[run]",
        f"dir = {_value('runs/' + _run_name(manifest))}",
        "",
        f"[data]  # test data: {split.reason}",
        *_sources(split),
        f"global_batch_size = {_batch_size(rows)}",
        f"lanes = {LANES}",
        "",
        "[features]",
        "sparse = [",
        *(f"    {_inline(entry)},  # {choice.why}" for choice in choices for entry in choice.sparse),
        "]",
        "dense = [",
        *(f"    {_inline(entry)},  # {choice.why}" for choice in choices for entry in choice.dense),
        "]",
        *(f"# {choice.column}: {choice.why}" for choice in choices if not choice.sparse and not choice.dense),
        "",
        *(line for choice in choices for table in choice.tables for line in _section("[[tables]]", table)),
        *(line for label in labels for line in _task(label, profile.columns[label])),
        "[model]",
        'head = "adatt"',
        "",
        "[train]  # every row once",
        f"samples = {rows}",
        "",
        "[evaluate]  # after a tenth, a third and all of the rows",
        f"at_samples = {milestones}",
    ]
    return "\n".join(lines) + "\n"


def _sources(split: Split) -> list[str]:
    lines = [f"train = {_value(_one_or_more(split.train.uris))}", f"test = {_value(_one_or_more(split.test.uris))}"]
    if split.train.where:
        lines.append(f"where = {_value(split.train.where)}")
    if split.test.where:
        lines.append(f"test_where = {_value(split.test.where)}")
    return lines


def _task(label: str, column: ColumnProfile) -> list[str]:
    name = "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in label)
    task = {"name": name if name != "row" else "row_label", "label": label}
    if column.is_binary:
        return _section(f"[[tasks]]  # {column.numbers.mean:.2%} of the rows", task | {"kind": "binary"})
    low, high = column.numbers.low, column.numbers.high
    return _section(f"[[tasks]]  # numbers from {low:g} to {high:g}", task | {"kind": "regression"})


def _batch_size(rows: int) -> int:
    size = SMALLEST_BATCH
    while size < LARGEST_BATCH and rows > ROWS_PER_BATCH * 32 * size // SMALLEST_BATCH:
        size *= 2
    return size if rows >= 8 * size else max(rows // 64 // LANES, 1) * LANES


def _run_name(manifest: Manifest) -> str:
    parts = [part for part in manifest.root.split("/") if part and part not in ("train", "data", "logs")]
    name = parts[-1] if parts else "first"
    return "".join(letter if letter.isalnum() or letter in "_-" else "-" for letter in name)


def _one_or_more(uris: tuple[str, ...]) -> str | list[str]:
    return uris[0] if len(uris) == 1 else list(uris)


def _section(title: str, values: dict[str, Any]) -> list[str]:
    return [title, *(f"{key} = {_value(value)}" for key, value in values.items()), ""]


def _inline(values: dict[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {_value(value)}" for key, value in values.items()) + " }"


def _value(value: Any) -> str:
    """As TOML: its strings, lists and numbers are JSON's, but for true and false, which are alike."""
    return f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) else json.dumps(value)
