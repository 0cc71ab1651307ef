"""Milestones of a run: which are still to come, what has become of the others, and how many were in vain."""

import math
from collections.abc import Iterator

from trainer.clock import Due, Milestone
from trainer.config.run_config import Config
from trainer.run.directory import RunDirectory
from trainer.run.evaluations import evaluated_at
from trainer.run.records import Evaluation


def with_pending_milestones(config: Config, run: RunDirectory, end: int) -> Config:
    """The config without milestones that have been evaluated at other samples than they would be now.

    Where the data ended before a milestone's batch was full, it was evaluated there, and a second pass passes it over.
    """
    due = Due(batch=config.data.global_batch_size, end=end)

    def is_pending(milestone: Milestone) -> bool:
        return evaluated_at(run, milestone.text) <= {due.boundary(milestone.samples)}

    kept = tuple(milestone for milestone in config.evaluate.at_samples if is_pending(milestone))
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"at_samples": kept})})


def missed_milestones(config: Config, run: RunDirectory, saved: list[str], samples: int, end: int) -> Iterator[str]:
    """A line for each milestone that lies before `samples`, where the run goes on, and has never been evaluated.

    `saved`: names of the run's checkpoints.
    """
    due = Due(batch=config.data.global_batch_size, end=end)
    names = [name for name in saved if int(name) <= samples]

    for milestone in config.evaluate.at_samples:
        boundary = due.boundary(milestone.samples)
        if boundary >= samples or evaluated_at(run, milestone.text):
            continue
        later = [name for name in names if int(name) >= boundary]
        nearest = (later or names[-1:] or ["latest"])[0]
        command = f"`adatt evaluate {run.path} --checkpoint {nearest}`"
        if nearest == str(boundary):
            way_out = f"a checkpoint is left there: {command} evaluates it"
        else:
            alternative = "evaluates the next one; only a run in another folder can evaluate the milestone"
            way_out = f"no checkpoint is left at {boundary:,}: {command} {alternative}"

        lies = f"milestone {milestone.text} lies before {samples:,} samples, where the run goes on"
        yield f"{lies}: it is not evaluated; {way_out}"


def milestones_in_vain(records: list[Evaluation]) -> int:
    """Newest evaluations in a row after the last one in which some task had its best metric so far (NE, MSE)."""
    best: dict[str, float] = {}
    improved_at = {}
    of_whole_set = [record for record in records if record.by is None]
    for record in sorted(of_whole_set, key=lambda record: record.samples):
        value = record.main
        if value is not None and value < best.get(record.task, math.inf):
            best[record.task] = value
            improved_at[record.task] = record.samples

    newest_improvement = max(improved_at.values(), default=0)
    return len({record.samples for record in of_whole_set if record.samples > newest_improvement})
