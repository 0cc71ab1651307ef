"""How far a study is, for people: a bar in a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Sequence
from datetime import timedelta

from rich.progress import BarColumn, Progress, TextColumn

from trainer.console import make_console
from trainer.studies.trainings import Training

PLAIN_LINE_SECONDS = 30.0


class StudyProgress:
    """Context; called with how many trainings have ended and how many samples are trained, of all."""

    def __init__(self, title: str, trainings: Sequence[Training]) -> None:
        self._count = len(trainings)
        self._samples = sum(training.samples for training in trainings)
        self._console = make_console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=self._samples, text="")
        self._begin: tuple[float, int] | None = None
        self._next_line = 0.0

    def __enter__(self) -> "StudyProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, ended: int, samples: int) -> None:
        """So much is done."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = (now, samples)
        text = (
            f"{ended} of {self._count} runs · {samples:,} of {self._samples:,} samples{self._time_left(now, samples)}"
        )
        self._bar.update(self._task, completed=samples, text=text)

        if not self._console.is_terminal and now >= self._next_line:
            self._console.print(text)
            self._next_line = now + PLAIN_LINE_SECONDS

    def _time_left(self, now: float, samples: int) -> str:
        assert self._begin is not None
        begin, before = self._begin
        if samples <= before:
            return ""
        seconds = (self._samples - samples) * (now - begin) / (samples - before)
        return f" · ETA {timedelta(seconds=round(seconds))}"
