"""Which evaluations of a run are recorded already, and which are still to be made."""

from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records, rewrite_records
from trainer.run.records import read_evaluations, read_window_evaluations


def needs_evaluation(run: RunDirectory, samples: int, milestones: list[str | None], tasks: list[str]) -> bool:
    """Whether an evaluation is still to be done; drops the records of one that was cut short."""
    of_now = [record for record in read_evaluations(run.evaluations) if record.samples == samples]
    recorded = {(record.milestone, record.task) for record in of_now if record.by is None}
    wanted = {(milestone, task) for milestone in milestones for task in tasks}
    if wanted <= recorded and run.buckets_file(samples).exists():
        return False
    if of_now:
        _drop(run, samples, None)
    return True


def needs_window(run: RunDirectory, samples: int, window: str, tasks: list[str]) -> bool:
    """The same for a window of the training data."""
    records = read_window_evaluations(run.evaluations)
    recorded = {record.task for record in records if (record.samples, record.window) == (samples, window)}
    if set(tasks) <= recorded:
        return False
    if recorded:
        _drop(run, samples, window)
    return True


def evaluated_at(run: RunDirectory, milestone: str) -> set[int]:
    """Samples at which a milestone has been evaluated."""
    return {record.samples for record in read_evaluations(run.evaluations) if record.milestone == milestone}


def _drop(run: RunDirectory, samples: int, window: str | None) -> None:
    run.lock.check()
    records = read_records(run.evaluations)
    others = [record for record in records if (record["samples"], record.get("window")) != (samples, window)]
    rewrite_records(run.evaluations, others)
