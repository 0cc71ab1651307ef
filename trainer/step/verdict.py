"""What all ranks know of a training step, alike."""

from typing import NamedTuple

from models.ranker import StepOutput


class Verdict(NamedTuple):
    """What all ranks know after a step, alike."""

    unsound: bool = False
    """A loss or a gradient is not finite; nothing was updated."""
    stop: bool = False
    """A rank has been asked to stop."""
    save: bool = False
    """`checkpoint.every_minutes` have passed."""
    failed: bool = False
    """A rank cannot read its data any more."""
    skipped: int = 0
    """Stretches of unreadable rows, and of rows with bad values, that the ranks have met in this start."""


def verdict_of(sums: list[int]) -> Verdict:
    """The verdict from each rank's own values in the order of the fields, summed over the ranks."""
    unsound, stop, save, failed, skipped = sums
    return Verdict(unsound > 0, stop > 0, save > 0, failed > 0, skipped)


class StepResult(NamedTuple):
    """What the loop gets to know of a training step."""

    samples: int
    """At which its batch begins."""
    output: StepOutput
    """Of this rank's share of the batch."""
    verdict: Verdict
    """Of all ranks, the same on each."""
