"""How two configs differ."""

from typing import Any

from trainer.config.changes import is_free, may_change
from trainer.config.run_config import Config

Change = tuple[str, str, str]
"""A key, and its values before and now as texts."""
_LONGEST_SHOWN = 80
"""Characters of a value in a message."""


def plain(config: Config) -> dict[str, Any]:
    """The config as TOML can hold it: without the keys that are None."""

    def without_none(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_none(entry) for key, entry in value.items() if entry is not None}
        return [without_none(entry) for entry in value] if isinstance(value, list | tuple) else value

    return without_none(config.model_dump(mode="python"))


def differences(before: Config, now: Config) -> list[Change]:
    """Every key of two configs that differs and is not free to change."""
    return _differences(plain(before), plain(now))


def difference(before: dict[str, Any], now: dict[str, Any]) -> Change | None:
    """The first key of two plain configs that makes them those of different runs."""
    return next((change for change in _differences(before, now) if not may_change(change[0])), None)


def _differences(before: Any, now: Any, path: str = "") -> list[Change]:
    """Of every leaf that differs and is not free to change."""
    if is_free(path) or before == now:
        return []

    if isinstance(before, dict) and isinstance(now, dict):
        found: list[Change] = []
        for key in dict.fromkeys([*before, *now]):
            found += _differences(before.get(key), now.get(key), f"{path}.{key}".strip("."))
        return found

    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return [(path, *_missing_entries(before, now))]
        found = []
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            found += _differences(old, new, f"{path}.{index}")
        return found

    return [(path, _shown(before), _shown(now))]


def _missing_entries(before: list[Any], now: list[Any]) -> tuple[str, str]:
    """What one of two lists has and the other has not, by name: `with 'hate'`, `without 'hate'`."""
    old = [_label(entry) for entry in before]
    new = [_label(entry) for entry in now]
    gone = [label for label in old if label not in new]
    added = [label for label in new if label not in old]
    if not gone and not added:
        return f"{len(before)} entries", f"{len(now)} entries"
    if gone and added:
        return f"with {', '.join(gone)}", f"with {', '.join(added)}"

    if gone:
        names = ", ".join(gone)
        return f"with {names}", f"without {names}"

    names = ", ".join(added)
    return f"without {names}", f"with {names}"


def _label(entry: Any) -> str:
    """How a list's entry is called in a message."""
    named = entry.get("name", entry.get("column")) if isinstance(entry, dict) else None
    return _shown(entry if named is None else named)


def _shown(value: Any) -> str:
    text = "not set" if value is None else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
