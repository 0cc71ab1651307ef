"""Checkpoints: tables, both optimizers and the samples count, in the format of torch.distributed.checkpoint.

    save    copy to host memory, while training waits
            ── from here on in a background thread, in a process group of its own ──
            write this rank's tensors · digest them · rank 0: state.json, rename, delete the oldest
    load    the newest one that verifies: state.json, index, then every rank a share of the files

The reader of the data has no state but the samples count, and the generators none at all (they are seeded by samples).
What the folder holds, and how it is read without running its code: `trainer.checkpoint.storage`.
"""

import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torchrec.distributed.model_parallel import DistributedModelParallel

from data.errors import one_line
from models.embedding import FeatureLayer
from models.ranker import Ranker
from trainer.build_model import ShardedModel
from trainer.checkpoint.folder import CheckpointFolder, index_of
from trainer.checkpoint.ownership import ForeignError, check_owner
from trainer.checkpoint.run_copy import RunCopy
from trainer.checkpoint.safe_load import METADATA_FILE, SafePlanner
from trainer.checkpoint.staging import Stager
from trainer.checkpoint.state import FileRecord, State
from trainer.checkpoint.true_rows import without_padding
from trainer.console import tell
from trainer.distributed.world import World
from trainer.errors import CheckpointError, ConfigError, RunError
from trainer.run.lock import Check, TakenOverError
from trainer.run.origin import Origin
from trainer.sharding.optimizers import Optimizer

_FAILURES = (CheckpointError, ConfigError, RunError)
"""Of a save, after which training goes on."""
OnSaved = Callable[[State, float], None]
"""Called with what was saved and the seconds it took."""


class Checkpoints:
    """The checkpoints of a run. Every public method but `warnings` is collective: call it on all ranks."""

    def __init__(
        self,
        folder: CheckpointFolder,
        world: World,
        origin: Origin | None = None,
        records: RunCopy | None = None,
        may_write: Check = lambda: None,
    ) -> None:
        """`origin`: what those that are read must have in common with the run; None: they may be of any.

        `records`: of the run, which are kept beside them. `may_write` raises TakenOverError where this process may not
        change the run any more.
        """
        self._folder = folder
        self._records = records
        self._world = world
        self._origin = origin
        self._may_write = may_write
        self._background = world.with_own_group()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._stager = Stager(world.device)
        self._writing: Future[None] | None = None
        self._warnings: list[str] = []
        self.found: list[str] = []
        """Names of the checkpoints when they were last looked for."""
        self.stall_seconds = 0.0
        """Time that training has waited for saves since the start."""

    def save(self, sharded: ShardedModel, state: State, keep: int, on_saved: OnSaved) -> str | None:
        """Starts a save; what went wrong with the one before it, in words.

        `on_saved` is called on rank 0, in the background, once the checkpoint is visible.
        """
        begin = time.perf_counter()
        problem = self.finish()
        name = str(state.samples)
        prefix = self._world.on_rank_zero(lambda: self._make_way(name, state.segment))

        if prefix is None and state.pinned:
            self._writing = self._thread.submit(self._background.on_rank_zero, lambda: self._folder.pin(name))
        elif prefix is not None:
            tensors = tensors_of(sharded.model, sharded.optimizer)
            staged = self._stager.stage(without_padding(tensors, features_of(sharded.model)))
            self._writing = self._thread.submit(self._write, staged, prefix, state, keep, on_saved)

        self.stall_seconds += time.perf_counter() - begin
        return problem

    def finish(self) -> str | None:
        """Waits for the save under way; what went wrong with it, in words, alike on all ranks.

        Raises TakenOverError on all ranks if another start goes on with the run.
        """
        writing = self._writing
        self._writing = None

        try:
            if writing is not None:
                writing.result()
        except TakenOverError:
            raise
        except _FAILURES as error:
            return str(error)

        return None

    def warnings(self) -> list[str]:
        """What went wrong after checkpoints were saved, each once; on rank 0."""
        warnings = self._warnings
        self._warnings = []
        return warnings

    def newest(self) -> tuple[State | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with the newer ones; ForeignError of another run."""
        problems: list[str] = []
        for name in reversed(self._names()):
            try:
                return self._verify(name), problems
            except ForeignError:
                raise
            except CheckpointError as error:
                problems.append(str(error))

        return None, problems

    def find(self, name: str) -> State:
        """The checkpoint called `name`, or the newest whole one for 'latest', verified."""
        names = self._names()
        if not names:
            raise CheckpointError(f"{self._folder.where()}: no checkpoint here; train the run first")

        if name != "latest":
            if name not in names:
                raise CheckpointError(f"{self._folder.where()}: no checkpoint {name!r}; there are {', '.join(names)}")
            return self._verify(name)

        state, problems = self.newest()
        if state is None:
            raise CheckpointError(f"{problems[0]}; no checkpoint of this run is whole")

        if self._world.is_rank_zero:
            for problem in problems:
                tell("warning", f"{problem}; {state.samples} is used instead")

        return state

    def load(self, state: State, model: DistributedModelParallel, optimizer: Optimizer | None) -> None:
        """Loads weights, and optimizer state where one is given."""
        tensors = tensors_of(model, optimizer)
        self.read(state, without_padding(tensors, features_of(model)), SafePlanner())

        model.load_state_dict(tensors["model"])
        if optimizer is not None:
            optimizer.combined.load_state_dict(tensors["optimizer"])

    def read(self, state: State, tensors: dict[str, Any], planner: SafePlanner) -> None:
        """Reads some tensors of a checkpoint into those given, in place."""
        name = str(state.samples)
        reader = self._folder.reader(name, index_of(state) or METADATA_FILE)
        try:
            dcp.load(tensors, storage_reader=reader, planner=planner)
        except dcp.CheckpointException as error:
            where = self._folder.where(name)
            if isinstance(_first_failure(error), OSError):
                raise RunError(f"{where}: cannot be read ({_cause(error)}); start again when it can") from error
            raise CheckpointError(f"{where}: does not fit this model ({_cause(error)})") from error

    def clear_after(self, samples: int) -> None:
        """Makes room for what follows a resume: damaged checkpoints step aside, half-written ones go."""
        self._world.on_rank_zero(lambda: self._folder.clear_after(samples))

    def _names(self) -> list[str]:
        self.found = self._world.on_rank_zero(self._folder.names)
        return self.found

    def _verify(self, name: str) -> State:
        """What a whole checkpoint says of itself; CheckpointError names the file that is damaged."""
        state = self._world.on_rank_zero(lambda: self._read(name))
        share = sorted(state.files)[self._world.rank :: self._world.size]
        self._world.raise_on_all_ranks(lambda: self._folder.check_files(name, state, share))
        return state

    def _read(self, name: str) -> State:
        """On rank 0, before it is read as a whole."""
        state = self._folder.check_index(name)
        if self._origin is not None:
            check_owner(self._folder.where(name), state, self._origin)
        return state

    def _write(self, staged: dict[str, Any], prefix: str, state: State, keep: int, on_saved: OnSaved) -> None:
        """In the background thread of every rank; CheckpointError on all ranks where it fails on one."""
        begin = time.perf_counter()
        world = self._background
        name = str(state.samples)
        folder = self._folder

        try:
            torch.serialization.set_crc32_options(compute_crc32=False)  # five times as slow as our own digests
            writer = folder.writer(name, prefix)
            dcp.save(staged, storage_writer=writer, process_group=world.group)
            files = world.gather(world.raise_on_all_ranks(lambda: folder.written(writer, name, world.rank)))
            all_files: dict[str, FileRecord] = {}
            for of_rank in files:
                all_files |= of_rank
            complete = replace(state, files=all_files)
            world.on_rank_zero(lambda: self._publish(name, complete))
        except (dcp.CheckpointException, *_FAILURES) as error:
            world.on_rank_zero(lambda: folder.abandon(name, prefix))
            if isinstance(error, TakenOverError):
                raise
            cause = folder.why_failed(name, _cause(error))
            raise CheckpointError(f"{folder.where(name)}: not saved ({cause})") from error

        if world.is_rank_zero:
            self._follow_up(lambda: on_saved(state, time.perf_counter() - begin))
            self._follow_up(lambda: self._thin_out(keep))

    def _make_way(self, name: str, segment: int) -> str | None:
        """How the names of a save's files begin; None if the checkpoint is there already."""
        self._may_write()
        return None if self._folder.has(name) else self._folder.begin(name, segment)

    def _publish(self, name: str, state: State) -> None:
        """The records first: whoever goes on from the checkpoint needs them up to it."""
        self._may_write()
        if self._records is not None:
            self._records.keep()
        self._folder.publish(name, state)

    def _thin_out(self, keep: int) -> None:
        self._may_write()
        self._folder.thin_out(keep)

    def _follow_up(self, function: Callable[[], None]) -> None:
        """What comes after a checkpoint is there does not undo it."""
        try:
            function()
        except (*_FAILURES, OSError) as error:
            self._warnings.append(one_line(error))


def tensors_of(model: DistributedModelParallel, optimizer: Optimizer | None) -> dict[str, Any]:
    """What a checkpoint holds, besides padding of tables: `model`, and `optimizer` where one is given."""
    state: dict[str, Any] = {"model": model.state_dict()}
    if optimizer is not None:
        state["optimizer"] = optimizer.combined.state_dict()
    return state


def features_of(model: DistributedModelParallel) -> FeatureLayer:
    """The part of a sharded model that has the tables."""
    return cast(Ranker, model.module).features


def _first_failure(error: BaseException) -> BaseException:
    """Of any rank."""
    if isinstance(error, dcp.CheckpointException):
        return next(iter(error.failures.values()))[0]
    return error


def _cause(error: BaseException) -> str:
    """The first failure of any rank, in one line."""
    cause = _first_failure(error)
    if isinstance(cause, pickle.UnpicklingError):  # torch's own message advises to read it all the same
        return "it holds something that is not plain data, and was not read"
    return one_line(cause)
