"""How far many trainings are: a bar in a terminal, a plain line now and then elsewhere, on standard error."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from trainer.console import make_console
from trainer.studies.trainings import Training

PLAIN_LINE_SECONDS = 30.0


class SamplesDisplay:
    """Context that shows samples trained, of all, with the time left."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = make_console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(title, text="")
        self._begin: tuple[float, int] | None = None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, text: str, samples: int, of: int) -> None:
        """So many samples are done; `text` says what else there is to say."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = (now, samples)
        text += f" · ETA {self._time_left(now, samples, of)}"
        self._bar.update(self._task, completed=samples, total=of, text=text)

        if not self._console.is_terminal and now >= self._next_line:
            self._console.print(f"{self._title}: {text}")
            self._next_line = now + PLAIN_LINE_SECONDS

    def _time_left(self, now: float, samples: int, of: int) -> str:
        assert self._begin is not None
        begin, before = self._begin
        if samples <= before:
            return "–"
        return str(timedelta(seconds=round((of - samples) * (now - begin) / (samples - before))))


class StudyDisplay(SamplesDisplay):
    """Of the trials of a study's grid, and the trainings after them: the time left is that of both."""

    def __init__(self, title: str, trial_samples: int, trainings: Sequence[Training]) -> None:
        """`trial_samples`: of all trials."""
        super().__init__(title)
        self._trial_samples = trial_samples
        self._count = len(trainings)
        self._samples = trial_samples + sum(training.samples for training in trainings)

    def trials(self, ended: int, of: int, samples: int) -> None:
        """So many trials have ended, and so many samples been trained in them."""
        self.show(f"{ended} of {of} trials of the grid", samples, self._samples)

    def runs(self, ended: int, samples: int) -> None:
        """So many trainings have ended, and so many samples been trained in them."""
        text = f"{ended} of {self._count} runs · {samples:,} samples"
        self.show(text, self._trial_samples + samples, self._samples)
