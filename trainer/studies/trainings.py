"""Runs many trainings, a few at a time, each in a process of its own; what has ended is not repeated.

The processes come from one that has loaded the program's libraries already (multiprocessing's fork server): a start
costs a fifth of a second instead of several. Each is `adatt train CONFIG --set …` to the letter, and its output is
in OUT/logs/NAME.log, behind the command that repeats it.
"""

import hashlib
import json
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from data.storage.files import replace_text
from trainer.config.load import changed_values, toml_text
from trainer.console import visible
from trainer.distributed.preemption import STOPPED, Stopped
from trainer.errors import ConfigError, RunError
from trainer.process.signals import Interrupted
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records

POLL_SECONDS = 0.5
SAVING_SECONDS = 25.0
"""How long trainings may take to save when all are asked to stop."""
ORPHAN_SECONDS = 60.0
"""How long a training waits for one that an earlier process of the study has left behind, which ends by itself."""


@dataclass(frozen=True)
class Training:
    """One run of a study."""

    name: str
    config: str
    """Path of the config file."""
    changes: tuple[str, ...]
    """To it, as `--set` takes them; run.dir follows from the name."""
    samples: int

    def command(self, out: Path) -> list[str]:
        """The arguments of `adatt`."""
        changes = [*self.changes, f"run.dir={toml_text(str(self.folder(out)))}"]
        return ["train", self.config, *(part for change in changes for part in ("--set", change))]

    def folder(self, out: Path) -> Path:
        """Of the run."""
        return out / "runs" / self.name

    def log(self, out: Path) -> Path:
        """What it has printed."""
        return out / "logs" / f"{self.name}.log"

    @property
    def digest(self) -> str:
        """Equal for the same values of the config's keys, whatever its comments and order."""
        values = changed_values(self.config, self.changes)
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


Progress = Callable[[int, int], None]
"""Is told, now and then, how many trainings have ended, and how many samples have been trained in all."""


def run_trainings(trainings: Sequence[Training], out: Path, parallel: int, threads: int, progress: Progress) -> None:
    """Runs those that have not ended yet, `parallel` at a time with `threads` each.

    Raises Stopped when it is asked to end, after all have saved; RunError, when the others are through, if one failed;
    ConfigError at once if one is not as the user wants it (exit code 2).
    """
    pending = [training for training in trainings if not has_ended(training, out)]
    ended = [training for training in trainings if training not in pending]
    done = sum(training.samples for training in ended)
    running: list[TrainingProcess] = []
    failed: list[str] = []
    use_threads(threads)

    try:
        while pending or running:
            while pending and len(running) < parallel:
                running.append(TrainingProcess(pending.pop(0), out))
            time.sleep(POLL_SECONDS)

            for process in [process for process in running if not process.is_alive]:
                running.remove(process)
                failed += process.finish()
                done += process.training.samples

            progress(len(trainings) - len(pending) - len(running), done + sum(one.samples for one in running))
    except Interrupted as asked:
        raise Stopped from asked
    finally:
        stop(running)

    if failed:
        raise RunError(f"{len(failed)} of {len(trainings)} trainings failed: {failed[0]}")


def has_ended(training: Training, out: Path) -> bool:
    """Whether it has been trained to its end."""
    return _record_of(training, out).get("digest") == training.digest and training.folder(out).exists()


def seconds_of(training: Training, out: Path) -> float | None:
    """How long it took, if it has ended."""
    return _record_of(training, out).get("seconds") if has_ended(training, out) else None


class TrainingProcess:
    """A training under way."""

    def __init__(self, training: Training, out: Path) -> None:
        self.training = training
        self._out = out
        self._begin = time.monotonic()
        log = training.log(out)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = training.command(out)
        log.write_text(f"$ {shlex.join(['adatt', *command])}\n", encoding="utf-8")
        threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        self._process = start(_train, (command, str(training.folder(out)), str(log), threads))
        self._is_asked = False

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """None while it is alive."""
        return self._process.exitcode

    @property
    def samples(self) -> int:
        """Trained so far, as its log says."""
        with suppress(ConfigError, OSError):
            records = read_records(RunDirectory(self.training.folder(self._out)).train_log)
            return int(records[-1]["samples"]) if records else 0
        return 0

    def ask_to_stop(self) -> None:
        """It saves and ends; asked twice it would end without saving, so the second time does nothing."""
        if not self._is_asked:
            self._process.terminate()
        self._is_asked = True

    def end_within(self, seconds: float) -> None:
        """Waits for its end and kills it if that does not come in time."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()

    def finish(self) -> list[str]:
        """Records its end; one line if it has failed. ConfigError: what it was asked for is wrong."""
        if self.exit_code == 0:
            record = {"digest": self.training.digest, "seconds": round(time.monotonic() - self._begin, 1)}
            replace_text(_record_file(self.training, self._out), json.dumps(record) + "\n")
            return []
        if self.exit_code == STOPPED:  # asked from outside to stop, not by this process
            raise Stopped
        if self.exit_code == 2:
            raise ConfigError(self._failure)
        return [self._failure]

    @property
    def _failure(self) -> str:
        log = self.training.log(self._out)
        text = log.read_text(encoding="utf-8", errors="replace")
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        reason = errors[-1].removeprefix("error: ") if errors else f"it ended with {self.exit_code}; see {log}"
        return f"{self.training.name}: {visible(reason)}"


def use_threads(threads: int) -> None:
    """How many threads each process takes that begins after this."""
    os.environ["OMP_NUM_THREADS"] = str(threads)


def stop(running: Sequence[TrainingProcess]) -> None:
    """Asks them to save and end; those that do not are killed, and go on from an older checkpoint."""
    for one in running:
        one.ask_to_stop()
    deadline = time.monotonic() + SAVING_SECONDS
    for one in running:
        one.end_within(max(deadline - time.monotonic(), 0.1))


def start(target: Callable[..., None], arguments: tuple[Any, ...]) -> BaseProcess:
    """A process that has the program's libraries; it ends when this one does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.studies.preload"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def _train(command: list[str], folder: str, log: str, threads: int) -> None:
    """In the process: the program's own way from arguments to exit code."""
    import torch

    from trainer.__main__ import main

    torch.set_num_threads(threads)  # the fork server may have begun with others, and sums depend on them
    os.setpgrp()  # Ctrl-C is for the study, which passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    _wait_for_orphan(Path(folder))
    sys.argv = ["adatt", *command]
    main()


def _end_with_parent() -> None:
    """A study that is killed leaves no training behind: it saves and ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_orphan(folder: Path) -> None:
    if folder.exists():
        with suppress(ConfigError), RunDirectory(folder).locked(ORPHAN_SECONDS):
            pass


def _record_file(training: Training, out: Path) -> Path:
    return training.folder(out).parent / f"{training.name}.ended.json"


def _record_of(training: Training, out: Path) -> dict[str, Any]:
    try:
        record = json.loads(_record_file(training, out).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
