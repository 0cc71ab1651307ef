"""The samples clock: everything is scheduled on the number of samples trained, globally.

Events fall on the first global batch boundary at or after their samples; where the data ends first, on its last one.
"""

from dataclasses import dataclass

from data.counts import format_count, parse_count


@dataclass
class Clock:
    """Samples trained so far."""

    batch: int
    """Samples of a global batch."""
    samples: int = 0

    def advance(self) -> None:
        """One global batch has been trained."""
        self.samples += self.batch


@dataclass(frozen=True)
class Milestone:
    """A number of samples as the user wrote it."""

    text: str
    samples: int


def parse_milestone(value: object) -> object:
    """'10B' or 10_000 → Milestone; raises ValueError if it is not a count."""
    if isinstance(value, str):
        return Milestone(value, parse_count(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return Milestone(format_count(value), parse_count(value))
    raise ValueError(f"{value!r} is not a count; write a whole number or a text such as '10B'")


class Due:
    """Answers, once for each, whether an event has come: events at given samples, at a fixed distance, or both.

    >>> due = Due(every=100, batch=64, end=256)
    >>> [samples for samples in (64, 128, 192, 256) if due(samples)]
    [128, 256]
    """

    def __init__(self, *, batch: int, end: int, at: tuple[int, ...] = (), every: int | None = None) -> None:
        self._batch = batch
        self._end = end
        self._every = every
        self._at = frozenset(self.boundary(samples) for samples in at)

    def __call__(self, samples: int) -> bool:
        """Whether an event falls on this batch boundary."""
        return samples in self._at or (self._every is not None and self._has_multiple(samples))

    def boundary(self, samples: int) -> int:
        """The batch boundary on which an event at `samples` falls."""
        return min(-(-samples // self._batch) * self._batch, self._end)

    def next(self, samples: int) -> int:
        """The first boundary after `samples` with an event at a given number of samples, or the end."""
        return min((boundary for boundary in self._at if boundary > samples), default=self._end)

    def _has_multiple(self, samples: int) -> bool:
        """Whether a multiple of `every` lies in the batch that ends here: in (samples - batch, samples]."""
        assert self._every is not None
        before = samples - self._batch
        return samples == self._end or samples // self._every > before // self._every


@dataclass(frozen=True)
class LoopSchedule:
    """When the training loop evaluates, logs and saves."""

    evaluation: Due
    """At every milestone and at the end."""
    window: Due
    """Before every window, with `evaluate.next_window`."""
    log: Due
    checkpoint: Due

    def next_stop(self, samples: int) -> int:
        """Where the pipeline has to be empty next: at an evaluation, or the end."""
        return min(self.evaluation.next(samples), self.window.next(samples))

    def needs_account(self, samples: int) -> bool:
        """Whether something is said or kept at `samples`, so that all before must be accounted for."""
        return any(due(samples) for due in (self.evaluation, self.window, self.log, self.checkpoint))
