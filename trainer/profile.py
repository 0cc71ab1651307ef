"""A trace of a few training steps, for TensorBoard's profiler page or ui.perfetto.dev."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

from trainer.world import World

SKIPPED_STEPS, WARM_UP_STEPS, RECORDED_STEPS = 5, 2, 3


def profiler(folder: Path, world: World) -> profile:
    """Context that writes FOLDER/rank-N.*.pt.trace.json once the recorded steps are over; `step` it after each step."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    return profile(
        activities=activities,
        schedule=schedule(wait=SKIPPED_STEPS, warmup=WARM_UP_STEPS, active=RECORDED_STEPS, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(folder), worker_name=f"rank-{world.rank}"),
    )
