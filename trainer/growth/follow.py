"""`adatt train --follow`: at the end of the data, the training waits until the log has grown, and goes on.

    train to the end ─► look at the log ─► grown: start again from the newest checkpoint
            ▲                 ▲    └─────► else wait, until it is time or a signal comes
            └─────────────────┴─ …

Every round is a start like any other. A look lists the dataset, and reads footers only where the list has changed.
"""

import gc
import math
import time

import torch
from torch.distributed.distributed_c10d import _get_default_store  # there is no public way to torchrun's store

from data.discovery.dataset import listing_digest
from data.errors import DataError, one_line
from data.storage.manifest_file import load_manifest
from trainer.config.run_config import Config
from trainer.console import make_console, tell
from trainer.datasets import open_manifest
from trainer.distributed.preemption import Stopped, StopRequest
from trainer.distributed.watchdog import HangWatchdog
from trainer.distributed.world import World, leave_own_groups
from trainer.errors import ConfigError
from trainer.growth.known_data import known_data, may_grow
from trainer.process.signals import heard_signals
from trainer.run.directory import RunDirectory
from trainer.train import train

MEETING_SECONDS = 0.2
"""How often the ranks meet while they wait, so that a signal to any of them ends the wait of all."""


def follow(config: Config, world: World, minutes: float, *, profile: bool = False) -> None:
    """Trains the run, and goes on with whatever its training data grows by, looking every so many minutes.

    Ends by Stopped, on request. Raises ConfigError if the data of this config may not grow, and what `train` raises.
    Collective: call on all ranks. `profile`: of the first round.
    """
    check_follow(config, minutes)
    while True:
        heard = heard_signals()
        train(config, world, profile=profile)
        profile = False

        # Signals are ignored after the first: one that came when there was nothing left to train must end this.
        is_asked = heard_signals() != heard
        if _any(world, is_asked) or not _wait(config, world, minutes):
            if world.is_rank_zero:
                _say("stopped on request; all that was there is trained and saved, start again to go on")
            raise Stopped


def check_follow(config: Config, minutes: float) -> None:
    """Raises ConfigError if there is nothing to wait for."""
    if not (math.isfinite(minutes) and minutes > 0):
        raise ConfigError(f"--follow = {minutes:g} minutes; give a number above 0, as in --follow 5")
    if not may_grow(config):
        found = f"data.order = {config.data.order!r}, data.repeat = {str(config.data.repeat).lower()}"
        raise ConfigError(
            f"--follow waits for new windows, which {found} does not train; set data.order = 'chronological' and "
            "data.repeat = false, or leave --follow out"
        )
    if config.train.samples != "all":
        raise ConfigError(
            f"--follow trains to the end of what is there, but train.samples = {config.train.samples!r} ends before; "
            "set train.samples = 'all', or leave --follow out"
        )
    if config.train.patience is not None:
        raise ConfigError(
            f"--follow trains on and on, but train.patience = {config.train.patience} ends the training; leave one out"
        )


def _wait(config: Config, world: World, minutes: float) -> bool:
    """Waits until the training data has grown; False: a rank has been asked to stop. Collective: call on all ranks."""
    lookout = _Lookout(config, minutes)
    request = StopRequest(config.checkpoint.grace_seconds, speaks=world.is_rank_zero)
    is_told = not world.is_rank_zero

    with HangWatchdog(world, _get_default_store(), config.run.hang_seconds) as watchdog:
        with request.listening():
            leave_own_groups()
            gc.collect()  # models lie in reference cycles: two of them would be in memory
            watchdog.beat("look at the training data")
            while not world.on_rank_zero(lookout.has_grown):
                if not is_told:
                    unit = "minute" if minutes == 1 else "minutes"
                    uri = config.data.train_source
                    _say(f"waiting for new windows in {uri}, every {minutes:g} {unit} (Ctrl-C ends)")
                    is_told = True
                if not _pause(world, watchdog, request, 60 * minutes):
                    break

        # Once nobody listens any more, so that no signal is lost between.
        return not _any(world, request.requested)


def _pause(world: World, watchdog: HangWatchdog, request: StopRequest, seconds: float) -> bool:
    """Waits for so long by rank 0's clock; False: a rank has been asked to stop. Collective: call on all ranks."""
    due = time.monotonic() + seconds
    while True:
        watchdog.beat("wait for new windows")
        is_due = world.is_rank_zero and time.monotonic() >= due
        flags_2 = torch.tensor([request.requested, is_due], dtype=torch.int64)

        # Every rank must leave alike: the next collective is another one.
        num_stopped, num_due = world.sum(flags_2).tolist()
        if num_stopped or num_due:
            return not num_stopped
        time.sleep(min(MEETING_SECONDS, seconds))


def _any(world: World, flag: bool) -> bool:
    """Whether a rank says so. Collective: call on all ranks."""
    return bool(world.sum(torch.tensor([flag], dtype=torch.int64)).item())


def _say(line: str) -> None:
    make_console().print(line, soft_wrap=True)


class _Lookout:
    """Looks whether the training data has grown; on rank 0."""

    def __init__(self, config: Config, minutes: float) -> None:
        self._config = config
        self._run = RunDirectory(config.run.dir)
        self._minutes = minutes
        self._seen = ""
        """Digest of the files that were there at the last look."""

    def has_grown(self) -> bool:
        """Whether there is something new to train; raises DataError if the data has changed in another way.

        A store that cannot be read, or holds nothing, is told of and counts as one where nothing is new.
        """
        data = self._config.data
        try:
            seen = listing_digest(data.train_source)
            if seen == self._seen:
                return False
            now = open_manifest(data.train_source, data.on_bad_file)
        except (DataError, OSError) as error:
            tell("warning", f"{one_line(error)}; looked at again in {self._minutes:g} minutes")
            return False

        self._seen = seen
        known = load_manifest(self._run.manifests["train"])
        return known_data(self._config, self._run, now).manifest.fingerprint != known.fingerprint
