"""What must be alike on all ranks, and the words for where it is not.

A rank that trains with another learning rate, or another version of the code, spoils the model of all without a word;
one with another batch size or other milestones leaves them waiting for ever. What may differ between nodes is free:
where a node keeps what it reads (its files are compared instead), how it computes, and where it sees the run's folder.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

FREE_KEYS = ("run.dir", "run.device", "data.train", "data.test", "data.threads")
"""Keys that may differ: the kind of device, the files of the datasets and the run's folder are compared themselves."""
PACKAGES = ("benchmarks", "data", "models", "trainer")
LIBRARIES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "numpy", "pyarrow", "xxhash")
"""Whose versions may change what is computed, or in which order."""
NOTHING = "not set"
WAYS_OUT = {
    "start": "start the same command on all nodes",
    "code": "install the same version of the program on all nodes",
    "version": "install the same versions on all nodes",
    "device": "give all nodes the same kind of device, or set run.device",
    "config": "give all ranks the same config, --set changes included",
}
"""What to do, by section; what explains the others comes first."""

Account = dict[str, dict[str, str]]
"""What a rank says of itself: section, name, value as text."""


def account_of(config: Mapping[str, Any], device: str, start: Mapping[str, Any]) -> Account:
    """What this rank runs. `config`: as JSON can hold it; `start`: the command and its options."""
    major, minor, _ = platform.python_version_tuple()
    return {
        "start": {name: json.dumps(value) for name, value in start.items()},
        "code": _digests_of_code(),
        "version": {"python": f"{major}.{minor}", **_versions()},
        "device": {"kind of device": device},
        "config": _flat(config),
    }


def difference(first: Account, other: Account, first_name: str, other_name: str) -> str | None:
    """Where two ranks differ, in one line that names both values; None if they do not."""
    for section, way_out in WAYS_OUT.items():
        one = first[section]
        two = other[section]
        all_names = dict.fromkeys([*one, *two])
        names = [name for name in all_names if one.get(name) != two.get(name)]
        if names:
            name = names[0]
            here = one.get(name, NOTHING)
            there = two.get(name, NOTHING)
            values = f"{here} on {first_name}, {there} on {other_name}"
            more = f" ({len(names) - 1} more differ)" if len(names) > 1 else ""
            return f"the ranks differ: {_described(section, name)} is {values}{more}; {way_out}"

    return None


def _described(section: str, name: str) -> str:
    return {"code": f"the code of {name}", "version": f"the version of {name}"}.get(section, name)


def _digests_of_code() -> dict[str, str]:
    """A short digest of every source file of the program."""
    home = Path(__file__).parents[2]
    digests: dict[str, str] = {}

    for package in PACKAGES:
        for path in sorted((home / package).rglob("*.py")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            digests[str(path.relative_to(home))] = digest[:12]

    return digests


def _versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"

    return versions


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """The leaves of a config as text, by key."""
    if path in FREE_KEYS:
        return {}

    if isinstance(value, Mapping):
        entries = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
        entries = [(str(index), entry) for index, entry in enumerate(value)]
    else:
        return {path: NOTHING if value is None else json.dumps(value)}

    leaves: dict[str, str] = {}
    for key, entry in entries:
        leaves |= _flat(entry, f"{path}.{key}".lstrip("."))

    return leaves
