"""What a training prints before its first step."""

from dataclasses import asdict

from data.discovery.listing import first_names
from trainer.growth.known_data import may_grow
from trainer.inputs import Inputs
from trainer.logging.tables import plan_table, taken_table
from trainer.logging.train_log import TrainLog
from trainer.milestones import missed_milestones
from trainer.open_run import Loaded
from trainer.run.records import ChangedDataEvent, ConfigChangeEvent, DamagedCheckpointEvent, WarmStartEvent
from trainer.sharding.settings import algorithm_remarks


def announce(inputs: Inputs, loaded: Loaded, log: TrainLog) -> None:
    """Prints what is trained, and warns of what the user should know before it goes on for hours."""
    samples = loaded.clock.samples
    placements = loaded.sharded.placements
    log.describe(placements)
    log.print(plan_table(placements))
    config = inputs.config
    for text in algorithm_remarks(config.tables_held, config.optimizer.sparse, config.sharding.communication):
        log.print(text)

    num_parameters = sum(parameter.numel() for parameter in loaded.head.parameters())
    num_rows = inputs.train.manifest.num_rows
    batch = inputs.train.global_batch_size
    log.print(f"dense parameters {num_parameters:,} · {num_rows:,} training rows · batch {batch:,}")

    for problem in loaded.problems:
        log.event(DamagedCheckpointEvent, samples, problem=problem)
        log.warn(f"{problem}; the checkpoint before it is taken")

    if loaded.taken and inputs.config.init is not None:
        init = inputs.config.init
        log.print(taken_table(init.source, init.checkpoint, loaded.taken))
        parts = [asdict(entry) for entry in loaded.taken]
        log.event(WarmStartEvent, samples, source=init.source, checkpoint=init.checkpoint, parts=parts)

    for file, reason in inputs.train.manifest.left_out:
        log.warn(f"{file} is left out: {reason}")

    _announce_changes(inputs, samples, log)

    for text in inputs.remarks:
        log.warn(text)

    for table in loaded.crowded:
        (log.warn if table.is_bad else log.print)(str(table))

    for text in missed_milestones(inputs.config, inputs.run, loaded.checkpoints.found, samples, inputs.end):
        log.warn(text)

    if samples:
        log.print(f"resumed at {samples:,} of {inputs.end:,} samples")

    if inputs.train.dropped_rows:
        log.print(_dropped_rows(inputs))


def _announce_changes(inputs: Inputs, samples: int, log: TrainLog) -> None:
    for key, before, now in inputs.changes:
        log.event(ConfigChangeEvent, samples, key=key, before=before, now=now)
        log.print(f"{key} is {now} from here on; it was {before}")

    if inputs.accepted:
        log.event(ChangedDataEvent, samples, files=inputs.accepted)
        log.print(f"accepted with new contents and the same rows: {first_names(inputs.accepted, kind='training file')}")


def _dropped_rows(inputs: Inputs) -> str:
    reading = inputs.train
    if may_grow(inputs.config):
        return f"{reading.dropped_rows} rows do not fill a last global batch yet: they wait for the next window"
    passes = -(-inputs.end // (reading.batches_per_epoch * reading.global_batch_size))
    times = "1 pass" if passes == 1 else f"{passes} passes"
    return f"{reading.dropped_rows} rows of each pass do not fill a last global batch and are left out ({times})"
