"""Jobs as `adatt launch slurm` writes them, and what they have left: their logs, and the records of their runs."""

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from tests.checks import rows_once, run, wait_until
from tests.slurm.cluster import NODES, REQUEUE_SECONDS, Cluster
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.run.starts import RunStart, read_starts

HOME = Path(__file__).parents[2]
GRACE_SECONDS = 20
"""checkpoint.grace_seconds, so that a limit of two minutes leaves time to train."""
START_SECONDS, STOP_SECONDS, END_SECONDS = 180, 240, 300


class Jobs:
    """In a folder that has what the script expects: `.venv` and `configs`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.folder = cluster.folder / "work"
        self.folder.mkdir()
        (self.folder / ".venv").symlink_to(sys.prefix)
        (self.folder / "configs").symlink_to(HOME / "configs")

    def adatt(self, *arguments: str) -> None:
        """Runs a command there."""
        run(sys.executable, "-m", "trainer", *arguments, folder=self.folder)

    def submit(self, name: str, samples: int) -> int:
        """Number of the job that trains RUN `name`."""
        changes = {
            "run.dir": f"runs/{name}",
            "train.samples": samples,
            "evaluate.at_samples": f"[{samples}]",
            "checkpoint.grace_seconds": GRACE_SECONDS,
            "log.every_samples": 4096,
        }
        size = ["--nodes", str(len(NODES)), "--cpus", "1", "--memory", "2", "--time", "00:02:00"]
        sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
        script = self.folder / f"{name}.sbatch"
        self.adatt("launch", "slurm", "configs/quickstart.toml", *size, *sets, "--out", script.name)
        return self._cluster.submit(script)

    def submit_urgent(self) -> None:
        """A job for which others must give way, for a moment."""
        script = self.folder / "urgent.sbatch"
        script.write_text("#!/bin/sh\nsleep 1\n")
        self._cluster.submit(script, "--partition=urgent", f"--nodes={len(NODES)}", "--exclusive")

    def starts(self, name: str) -> list[RunStart]:
        """What the run says of its starts."""
        path = self._run(name).segments
        return read_starts(path) if path.exists() else []

    def wait_for_training(self, number: int, name: str, starts: int) -> None:
        """Until so many starts have been made, the last of which has trained for a while."""

        def trains() -> bool:
            made = self.starts(name)
            if len(made) < starts:
                return False
            records = list(read_records(self._run(name).train_log))
            return bool(records) and records[-1]["samples"] > made[-1].begin

        self._wait(number, trains, f"start {starts} of {name} trains", START_SECONDS)

    def stopped(self, number: int, name: str, starts: int) -> str:
        """Waits for the stop of a start; what was seen."""
        self._wait(
            number, lambda: self.starts(name)[-1].end is not None, f"start {starts} of {name} ends", STOP_SECONDS
        )
        start = self.starts(name)[-1]
        assert (len(self.starts(name)), start.end, start.world_size) == (starts, "stopped", len(NODES)), start
        return f"both ranks saved at {start.reached:,} samples"

    def completed(self, number: int, name: str, at_least: int) -> str:
        """Waits for the end of the job, after so many starts or more; what was seen."""
        self._cluster.wait_for(number, "COMPLETED", at_least * (REQUEUE_SECONDS + START_SECONDS) + END_SECONDS)
        made, job = self.starts(name), self._cluster.job(number)
        told = [(start.begin, start.reached, start.end) for start in made]
        assert len(made) >= at_least, told
        assert (job["Restarts"], job["ExitCode"]) == (str(len(made) - 1), "0:0"), f"{job}; {told}"
        assert all(later.begin == earlier.reached for earlier, later in pairwise(made)), told

        begins = ", ".join(f"{start.begin:,}" for start in made[1:])
        return f"Slurm started it again, resumed at {begins}; COMPLETED, exit 0; {rows_once(self._run(name).path)}"

    def cancelled(self, number: int, name: str) -> str:
        """Waits for the end of a cancelled job; what was seen."""
        self._cluster.wait_for(number, "CANCELLED", STOP_SECONDS)
        seen = self.stopped(number, name, starts=1)
        wait_until(lambda: self._cluster.states() == ["idle", "idle"], "idle nodes", STOP_SECONDS)
        time.sleep(2 * REQUEUE_SECONDS)
        assert self._cluster.job(number)["JobState"] == "CANCELLED"
        assert len(self.starts(name)) == 1
        return f"{seen}; CANCELLED; {2 * REQUEUE_SECONDS} s later it had not come back"

    def samples_in(self, name: str, seconds: float) -> int:
        """So many are trained in that time, in whole thousands, going by the run's own speed."""
        speeds = sorted(record["samples_per_second"] for record in read_records(self._run(name).train_log))
        return int(speeds[len(speeds) // 2] * seconds) // 1000 * 1000

    def _run(self, name: str) -> RunDirectory:
        return RunDirectory(self.folder / "runs" / name)

    def _wait(self, number: int, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Says how the job's log ends where the condition does not come true."""
        try:
            wait_until(condition, what, seconds)
        except AssertionError as error:
            log = self.folder / f"adatt-{number}.log"
            text = log.read_text(errors="replace") if log.exists() else "no log"
            raise AssertionError(f"{error}; {log.name} ends with:\n{text[-3000:]}") from error
