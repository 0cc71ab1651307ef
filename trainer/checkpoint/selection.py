"""What `--checkpoint` may say: a folder's name, `latest`, a milestone, or any count of samples."""

from data.counts import parse_count
from data.storage.manifest_file import load_manifest
from trainer.checkpoint.storage import list_folders
from trainer.clock import Due
from trainer.config.run_config import Config
from trainer.datasets import end_of_training, train_reading
from trainer.errors import CheckpointError
from trainer.run.directory import RunDirectory
from trainer.run.records import read_evaluations


def checkpoint_name(text: str, run: RunDirectory, config: Config) -> str:
    """The name of a checkpoint's folder; a count means the batch boundary at which its event falls.

    Raises CheckpointError if the run has none there. Of a text that is neither, and of a run without any, as it is.
    """
    names = list_folders(run.checkpoints)
    if text in names or not names:
        return text

    try:
        count = parse_count(text)
    except ValueError:
        return text

    samples = _boundary(text, count, run, config)
    if str(samples) not in names:
        raise CheckpointError(
            f"--checkpoint {text}: no checkpoint of {run.path} at {samples:,} samples; there are {', '.join(names)}"
        )

    return str(samples)


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
