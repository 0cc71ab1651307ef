"""A trace of a few training steps, for TensorBoard's profiler page or ui.perfetto.dev."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

from trainer.distributed.world import World
from trainer.logging.train_log import TrainLog
from trainer.step.pipeline import GuardedPipeline

SKIPPED_STEPS, WARM_UP_STEPS, RECORDED_STEPS = 5, 2, 3


@contextmanager
def profiled(pipeline: GuardedPipeline, folder: Path, world: World, log: TrainLog) -> Iterator[None]:
    """Context that writes FOLDER/rank-N.*.pt.trace.json once the recorded steps are over, and says so."""
    write = tensorboard_trace_handler(str(folder), worker_name=f"rank-{world.rank}")
    written: list[Path] = []

    def on_trace(profiler: profile) -> None:
        # At the end of the context the profiler calls this once more, whatever it has recorded.
        if not written:
            write(profiler)
            written.append(folder)
            log.print(f"steps traced: {folder}")

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    steps = schedule(wait=SKIPPED_STEPS, warmup=WARM_UP_STEPS, active=RECORDED_STEPS, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=on_trace) as pipeline.profiler:
        yield

    if not written:
        needed = SKIPPED_STEPS + WARM_UP_STEPS + RECORDED_STEPS
        log.warn(f"--profile: no trace, since this start had fewer than {needed} steps to train")
