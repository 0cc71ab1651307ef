"""Checkpoints: tables, both optimizers and the samples count, in the format of torch.distributed.checkpoint.

    RUN/checkpoints/2101248/            one file per rank, .metadata, state.json
    RUN/checkpoints/2101248.partial/    being written; never read

The reader has no state but the samples count, and the generators none at all (they are seeded by samples).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torchrec.distributed.model_parallel import DistributedModelParallel

from trainer.errors import CheckpointError
from trainer.optimizers import Optimizer
from trainer.world import World

STATE_FILE = "state.json"


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, folder: Path, world: World, keep: int) -> None:
        self._folder, self._world, self._keep = folder, world, keep

    def save(self, model: DistributedModelParallel, optimizer: Optimizer, samples: int, *, pinned: bool) -> None:
        """Writes a checkpoint and deletes the oldest beyond `keep`; pinned ones stay. Collective: call on all ranks."""
        final = self._folder / str(samples)
        if self._world.on_first(final.exists):
            return
        partial = final.with_suffix(".partial")
        self._world.on_first(lambda: _clear(partial))
        dcp.save(_state(model, optimizer), checkpoint_id=partial)
        self._world.on_first(lambda: self._publish(partial, final, {"samples": samples, "pinned": pinned}))

    def names(self) -> list[str]:
        """Complete checkpoints, oldest first."""
        return list_checkpoints(self._folder)

    def load(self, name: str, model: DistributedModelParallel, optimizer: Optimizer | None) -> int:
        """Loads weights, and optimizer state where one is given; returns the samples. Collective: call on all ranks."""
        path = self._folder / name
        if optimizer is not None:
            optimizer.allocate_state()
        state = _state(model, optimizer)
        dcp.load(state, checkpoint_id=path)
        model.load_state_dict(state["model"])
        if optimizer is not None:
            optimizer.combined.load_state_dict(state["optimizer"])
        return int(json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["samples"])

    def _publish(self, partial: Path, final: Path, state: dict[str, Any]) -> None:
        """Makes a complete checkpoint visible in one step, then thins out the old ones."""
        (partial / STATE_FILE).write_text(json.dumps(state) + "\n", encoding="utf-8")
        partial.rename(final)
        loose = [name for name in self.names() if not read_state(self._folder / name)["pinned"]]
        for name in loose[: -self._keep]:
            shutil.rmtree(self._folder / name)


def find_checkpoint(folder: Path, name: str) -> str:
    """The checkpoint called `name`, or the newest for 'latest'; CheckpointError where there is none."""
    names = list_checkpoints(folder)
    if not names:
        raise CheckpointError(f"{folder}: no checkpoint here; train the run first")
    if name == "latest":
        return names[-1]
    if name not in names:
        raise CheckpointError(f"{folder}: no checkpoint {name!r}; there are {', '.join(names)}")
    return name


def list_checkpoints(folder: Path) -> list[str]:
    """Names of the complete checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    complete = [entry.name for entry in folder.iterdir() if entry.name.isdigit() and (entry / STATE_FILE).is_file()]
    return sorted(complete, key=int)


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return dict(json.loads((path / STATE_FILE).read_text(encoding="utf-8")))


def _state(model: DistributedModelParallel, optimizer: Optimizer | None) -> dict[str, Any]:
    state: dict[str, Any] = {"model": model.state_dict()}
    if optimizer is not None:
        state["optimizer"] = optimizer.combined.state_dict()
    return state


def _clear(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
