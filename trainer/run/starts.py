"""The starts of a run, and what of their work the final weights have really seen.

    start 0   |=========== checkpoint ====× killed
    start 1               |====== checkpoint ===========× killed, its checkpoints lost
    start 2               |========================== checkpoint
    survives  |-----0-----|--------------2-----------|

A start goes on from a checkpoint, so whatever earlier starts did after it is undone. RUN/segments.jsonl holds a record
of each start, and is rewritten in one step: no kill leaves half a line.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from data.settings import Settings
from data.storage.files import replaced
from trainer.errors import ConfigError, RunError
from trainer.run.lock import Check

LONGEST_SHOWN = 60
"""Characters of a value in a message."""
Samples = Annotated[int, Field(ge=0, lt=1 << 62)]
End = Literal["finished", "stopped", "failed"]
"""stopped: on request. A start without an end was killed, or still runs."""


class RunStart(Settings, populate_by_name=True):
    """One start of a run."""

    segment: int = Field(ge=0)
    """Starts before this one."""
    started: AwareDatetime
    begin: Samples = Field(alias="from")
    """Samples at which it began."""
    reached: Samples = Field(alias="to")
    """Samples of its newest checkpoint: all that is known to be safe."""
    world_size: int = Field(gt=0)
    checkpoint: str | None
    """Name of the checkpoint that it went on from."""
    fingerprint: str
    """Of the training data."""
    trace: bool
    """Whether its ranks record the rows that they hand out."""
    end: End | None
    run: str | None = None
    """Id of the run; None in runs of before there were ids."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.reached < self.begin:
            raise ValueError(f"to = {self.reached} lies before from = {self.begin}")
        return self


class StartLog:
    """Keeps the record of this start. Used on rank 0 only, from any thread; raises RunError if it cannot write.

    `check`: whether it may write still.
    """

    def __init__(self, path: Path, run: str | None = None, check: Check = lambda: None) -> None:
        self._path = path
        self._run = run
        self._check = check
        self._starts: list[RunStart] = []
        self._lock = Lock()

    def start(self, samples: int, world_size: int, fingerprint: str, writer: int | None, *, trace: bool) -> int:
        """Adds the record of a start at `samples`, from a checkpoint that start `writer` has written; its number.

        A checkpoint beyond what its writer has noted was published just before that was killed: the checkpoint itself
        is the evidence that it got so far.
        """
        with self._lock:
            self._starts = read_starts(self._path)
            if writer is not None and writer < len(self._starts):
                self._raise(writer, samples)
            number = len(self._starts)
            self._starts.append(
                RunStart(
                    segment=number,
                    started=datetime.now(UTC).replace(microsecond=0),
                    begin=samples,
                    reached=samples,
                    world_size=world_size,
                    checkpoint=None if writer is None else str(samples),
                    fingerprint=fingerprint,
                    trace=trace,
                    end=None,
                    run=self._run,
                )
            )
            self._write()
            return number

    def reached(self, samples: int) -> None:
        """Notes that the checkpoint at `samples` is published."""
        with self._lock:
            self._raise(-1, samples)
            self._write()

    def finish(self, reason: End) -> None:
        """Notes how this start ended."""
        with self._lock:
            self._starts[-1] = self._starts[-1].model_copy(update={"end": reason})
            self._write()

    def _raise(self, number: int, samples: int) -> None:
        start = self._starts[number]
        reached = max(start.reached, samples)
        self._starts[number] = start.model_copy(update={"reached": reached})

    def _write(self) -> None:
        lines = [start.model_dump_json(by_alias=True) + "\n" for start in self._starts]
        self._check()
        try:
            with replaced(self._path) as file:
                file.write("".join(lines).encode())
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written ({error.strerror}); make room or fix the disk") from error


def read_starts(path: Path) -> list[RunStart]:
    """The starts recorded at `path`, oldest first; none where there is no file. Raises ConfigError if it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); restore it from a copy") from error

    return parse_starts(text, str(path))


def parse_starts(text: str, path: str) -> list[RunStart]:
    """The starts that the text of a file records, oldest first; raises ConfigError if it is damaged."""
    starts = []
    for number, line in enumerate(text.splitlines()):
        try:
            starts.append(RunStart.model_validate_json(line, strict=True, by_alias=True, by_name=False))
        except ValidationError as error:
            raise _damaged(path, number, explain(error)) from error

        if starts[-1].segment != number:
            raise _damaged(path, number, f"segment is {starts[-1].segment}, not {number}")

    return starts


def explain(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in a few words."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if problem["type"] == "missing":
        return f"{key}: {message}"

    value = json.dumps(problem["input"], default=str)
    return f"{key}: {message}, not {value[:LONGEST_SHOWN]}"


def _damaged(path: str, number: int, what: str) -> ConfigError:
    return ConfigError(f"{path}: line {number + 1} is not the record of a start ({what}); restore the file from a copy")


@dataclass(frozen=True)
class SampleRange:
    """Samples begin … end as trained by one start."""

    segment: int
    begin: int
    end: int

    @property
    def num_samples(self) -> int:
        """Samples in it."""
        return self.end - self.begin


def surviving(starts: Iterable[RunStart]) -> list[SampleRange]:
    """The ranges of samples that the newest weights have seen, in order of samples; none is empty, no two overlap."""
    ranges: list[SampleRange] = []
    limit: int | None = None

    for start in reversed(list(starts)):
        end = start.reached if limit is None else min(start.reached, limit)
        if start.begin < end:
            ranges.append(SampleRange(start.segment, start.begin, end))
        limit = start.begin if limit is None else min(start.begin, limit)

    return ranges[::-1]


def gaps(ranges: list[SampleRange], reached: int) -> list[tuple[int, int]]:
    """Samples below `reached` that no range holds; none where the starts join, as they should."""
    begins = [*(part.begin for part in ranges), reached]
    ends = [0, *(part.end for part in ranges)]
    return [(end, begin) for end, begin in zip(ends, begins, strict=True) if end < begin]
