"""Whether a checkpoint belongs to its run, and follows from the recorded starts."""

from trainer.checkpoint.state import State
from trainer.config.compatibility import difference, plain
from trainer.config.load import parse_config
from trainer.errors import CheckpointError
from trainer.run.origin import Origin
from trainer.run.starts import RunStart, surviving


class ForeignError(CheckpointError):
    """A checkpoint of another run: not damaged, so that no other one is taken in its place."""


def check_owner(path: str, state: State, origin: Origin) -> None:
    """Raises ForeignError if the checkpoint at `path` belongs to another run."""
    reason = _difference(path, state, origin)
    if reason:
        raise ForeignError(f"{path}: is a checkpoint of another run ({reason}); move it out of this run's folder")


def _difference(path: str, state: State, origin: Origin) -> str | None:
    config = plain(parse_config(state.config, f"{path}: config"))
    change = difference(config, origin.config)
    if change:
        return "{} is {} there, {} here".format(*change)

    for use, fingerprint in state.fingerprints.items():
        reason = origin.other_data(use, fingerprint)
        if reason:
            return reason

    return origin.other_identity(state.run)


def lost_samples(starts: list[RunStart], found: list[str]) -> int | None:
    """Samples of the newest checkpoint that was saved, if it is not among those that are found."""
    ranges = surviving(starts)
    saved = ranges[-1].end if ranges else 0
    is_there = saved == 0 or str(saved) in found
    return None if is_there else saved


def check_writer(path: str, state: State, starts: list[RunStart]) -> None:
    """Raises CheckpointError if the checkpoint at `path` does not follow from the recorded starts."""
    writer = state.segment
    advice = "restore that file from a copy"
    if writer >= len(starts):
        raise CheckpointError(
            f"{path}: was written by start {writer}, counted from 0, but segments.jsonl knows {len(starts)}; {advice}"
        )

    trained = writer
    for part in surviving(starts):
        if part.begin < state.samples <= part.end:
            trained = part.segment

    if trained != writer or state.samples < starts[writer].begin:
        raise CheckpointError(
            f"{path}: was written by start {writer}, but segments.jsonl says that start {trained} got there; {advice}"
        )
