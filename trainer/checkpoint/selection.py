"""What `--checkpoint` may say: a folder's name, `latest`, a milestone, any count of samples, or `best:TASK`."""

from data.counts import parse_count
from data.storage.manifest_file import load_manifest
from trainer.checkpoint.places import checkpoint_folder
from trainer.clock import Due
from trainer.config.run_config import Config
from trainer.datasets import end_of_training, train_reading
from trainer.errors import CheckpointError
from trainer.run.directory import RunDirectory
from trainer.run.records import read_evaluations

_BEST = "best:"


def checkpoint_name(text: str, run: RunDirectory, config: Config, option: str = "--checkpoint") -> str:
    """The name of a checkpoint's folder; a count means the batch boundary at which its event falls.

    Raises CheckpointError if the run has none there. Of a text that is neither, and of a run without any, as it is.
    `option`: where the text comes from, for messages.
    """
    names = checkpoint_folder(run, config).names()
    if text in names or not names:
        return text
    if text.startswith(_BEST):
        return _best(text, names, run, option)

    try:
        count = parse_count(text)
    except ValueError:
        return text

    samples = _boundary(text, count, run, config)
    if str(samples) not in names:
        raise CheckpointError(
            f"{option} {text}: no checkpoint of {run.path} at {samples:,} samples; there are {', '.join(names)}"
        )

    return str(samples)


def _best(text: str, names: list[str], run: RunDirectory, option: str) -> str:
    """The checkpoint with the lowest NE (MSE) of a task on the run's test set; of equal ones the first."""
    task = text.removeprefix(_BEST)
    records = [record for record in read_evaluations(run.evaluations) if record.by is None]
    tasks = list(dict.fromkeys(record.task for record in records))
    if task not in tasks:
        there = f"there are {', '.join(tasks)}" if tasks else "nothing has been evaluated yet"
        raise CheckpointError(f"{option} {text}: no task {task!r} in {run.evaluations}; {there}")

    values = {
        str(record.samples): record.main
        for record in records
        if record.task == task and record.main is not None and str(record.samples) in names
    }
    if not values:
        raise CheckpointError(f"{option} {text}: no checkpoint has a metric of {task!r}; there are {', '.join(names)}")
    return min(values, key=lambda name: (values[name], int(name)))


def _boundary(text: str, count: int, run: RunDirectory, config: Config) -> int:
    """Where a milestone was evaluated, or the batch boundary at or after a count."""
    evaluated = [record.samples for record in read_evaluations(run.evaluations) if record.milestone == text]
    if evaluated:
        return evaluated[-1]

    batch = config.data.global_batch_size
    total = config.train.samples
    if isinstance(total, int) and count > total:
        return -(-count // batch) * batch

    end = end_of_training(config, train_reading(config, load_manifest(run.manifests["train"])))
    return Due(batch=batch, end=end).boundary(count)
