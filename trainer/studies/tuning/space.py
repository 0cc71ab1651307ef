"""What a search chooses from: keys of a config with lists of values or ranges, as `--grid` and `--range` name them."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from trainer.config.load import toml_value
from trainer.errors import ConfigError

Values = dict[str, str]
"""Of some keys, as `--set` takes them."""

_RESERVED = {
    "run.dir": "each trial has a folder of its own",
    "run.allow_change": "a trial trains with one config from its beginning",
    "data.test": "all trials are judged on --validation",
    "data.test_where": "all trials are judged on --validation",
}
_OPENING, _CLOSING = "[{", "]}"


@dataclass(frozen=True)
class Choice:
    """A key and the values to try."""

    key: str
    values: tuple[str, ...]

    def suggest(self, trial: optuna.Trial) -> str:
        """The trial's value."""
        return self.text(trial.suggest_categorical(self.key, self.values))

    def text(self, value: Any) -> str:
        """A value of Optuna's as `--set` takes it."""
        return str(value)

    @property
    def ends(self) -> tuple[str, ...]:
        """The values that decide whether the config takes all of them."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A key and the interval to search, both ends included."""

    key: str
    low: float
    high: float
    log: bool
    whole: bool
    """Whole numbers only."""

    def suggest(self, trial: optuna.Trial) -> str:
        """The trial's value."""
        if self.whole:
            return self.text(trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log))
        return self.text(trial.suggest_float(self.key, self.low, self.high, log=self.log))

    def text(self, value: Any) -> str:
        """A value of Optuna's as `--set` takes it."""
        return str(int(value)) if self.whole else repr(float(value))

    @property
    def ends(self) -> tuple[str, ...]:
        """The values that decide whether the config takes all of them."""
        return self.text(self.low), self.text(self.high)


@dataclass(frozen=True)
class Space:
    """All keys that a search chooses values for."""

    choices: tuple[Choice, ...]
    ranges: tuple[Range, ...] = ()

    @property
    def parts(self) -> tuple[Choice | Range, ...]:
        """One for each key."""
        return (*self.choices, *self.ranges)

    @property
    def num_points(self) -> int | None:
        """Of a grid; None where there are ranges."""
        return None if self.ranges else math.prod(len(choice.values) for choice in self.choices)

    @property
    def num_ends(self) -> int:
        """How many points `ends` gives."""
        return math.prod(len(part.ends) for part in self.parts)

    def ends(self) -> Iterator[Values]:
        """Every combination of values and ends of ranges: of a grid, all its points."""
        keys = [part.key for part in self.parts]
        for values in itertools.product(*(part.ends for part in self.parts)):
            yield dict(zip(keys, values, strict=True))

    def suggest(self, trial: optuna.Trial) -> Values:
        """The trial's value of each key."""
        return {part.key: part.suggest(trial) for part in self.parts}


def changes_of(values: Values) -> list[str]:
    """As `--set` takes them."""
    return [f"{key}={value}" for key, value in values.items()]


def parse_space(grids: Sequence[str], ranges: Sequence[str]) -> Space:
    """From `KEY=V1,V2,…` and `KEY=LOW:HIGH[:log]`; ConfigError, in one line, if one of them cannot be searched."""
    if not grids and not ranges:
        raise ConfigError("nothing to search: name a --grid KEY=V1,V2,… or a --range KEY=LOW:HIGH")
    space = Space(tuple(_parse_choice(text) for text in grids), tuple(_parse_range(text) for text in ranges))

    keys = [part.key for part in space.parts]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"--grid and --range name {key!r} twice; name it once")
    return space


def _parse_choice(text: str) -> Choice:
    option = f"--grid {text!r}"
    key, values_text = _split_key(text, option, "KEY=V1,V2,…, such as optimizer.dense.learning_rate=0.001,0.01")
    values = _split_values(values_text)
    if not all(values):
        raise ConfigError(f"{option}: a value is empty; write KEY=V1,V2,…")

    known: list[Any] = []
    for value in values:
        parsed = toml_value(value)
        if parsed in known:
            raise ConfigError(f"{option}: {value} appears twice; name each value once")
        known.append(parsed)
    return Choice(key, tuple(values))


def _parse_range(text: str) -> Range:
    option = f"--range {text!r}"
    form = "KEY=LOW:HIGH or KEY=LOW:HIGH:log, such as optimizer.dense.learning_rate=1e-4:1e-1:log"
    key, range_text = _split_key(text, option, form)
    ends = range_text.split(":")
    log = ends[2:] == ["log"]
    try:
        low, high = (float(end) for end in (ends[:-1] if log else ends))
    except ValueError as error:
        raise ConfigError(f"{option}: write {form}") from error

    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{option}: a range begins and ends with finite numbers")
    if low >= high:
        raise ConfigError(f"{option}: {ends[0]} is not below {ends[1]}; write the lower end first")
    if log and low <= 0:
        raise ConfigError(f"{option}: a logarithmic range begins above 0, not at {ends[0]}")
    whole = all(re.fullmatch(r"\s*[+-]?\d+\s*", end) for end in ends[:2])
    return Range(key, low, high, log, whole)


def _split_key(text: str, option: str, form: str) -> tuple[str, str]:
    key, equals, values = (part.strip() for part in text.partition("="))
    if not (key and equals and values):
        raise ConfigError(f"{option}: write {form}")
    if key in _RESERVED:
        raise ConfigError(f"{option}: {key} cannot be searched; {_RESERVED[key]}")
    return key, values


def _split_values(text: str) -> list[str]:
    """At the commas that are in no brackets and no quotes."""
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in _OPENING) - (character in _CLOSING)

        if character == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += character
    return [value.strip() for value in values]
