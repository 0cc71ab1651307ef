"""Milestones of a run that is started again: which are still to come, and what has become of the others."""

from collections.abc import Iterator

from trainer.checkpoint.storage import list_folders
from trainer.clock import Due, Milestone
from trainer.config.run_config import Config
from trainer.run.directory import RunDirectory


def with_pending_milestones(config: Config, run: RunDirectory, end: int) -> Config:
    """The config without milestones that have been evaluated at other samples than they would be now.

    Where the data ended before a milestone's batch was full, it was evaluated there, and a second pass passes it over.
    """
    due = Due(batch=config.data.global_batch_size, end=end)

    def is_pending(milestone: Milestone) -> bool:
        return run.evaluated_at(milestone.text) <= {due.boundary(milestone.samples)}

    kept = tuple(milestone for milestone in config.evaluate.at_samples if is_pending(milestone))
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"at_samples": kept})})


def missed_milestones(config: Config, run: RunDirectory, samples: int, end: int) -> Iterator[str]:
    """A line for each milestone that lies before `samples`, where the run goes on, and has never been evaluated."""
    due, names = Due(batch=config.data.global_batch_size, end=end), list_folders(run.checkpoints)
    for milestone in config.evaluate.at_samples:
        boundary = due.boundary(milestone.samples)
        if boundary >= samples or run.evaluated_at(milestone.text):
            continue
        left = next((name for name in names if int(name) >= boundary), names[-1] if names else "latest")
        found = "a checkpoint is left there" if left == str(boundary) else f"no checkpoint is left at {boundary:,}"
        what = "evaluates it" if left == str(boundary) else "evaluates the next, a run in another folder the milestone"
        yield (
            f"milestone {milestone.text} lies before {samples:,} samples, where the run goes on: it is not evaluated; "
            f"{found}: `adatt evaluate {run.path} --checkpoint {left}` {what}"
        )
