"""How far training is, for people: a progress bar in a terminal, a plain line now and then elsewhere."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.console import make_console
from trainer.run.records import Window

PLAIN_LINE_SECONDS = 5.0
"""Shortest time between two plain lines."""


class ProgressDisplay:
    """The progress of a training from `start` to `end` samples; shows nothing on ranks where it is not enabled."""

    def __init__(self, enabled: bool, start: int, end: int) -> None:
        self._end = end
        self._next_line_seconds = 0.0
        self._console: Console | None = make_console() if enabled else None
        self._bar: Progress | None = None

        if self._console is not None and self._console.is_terminal:
            self._bar = _make_bar(self._console)
            self._task = self._bar.add_task("training", total=end, completed=start, text="")
            self._bar.start()

    def show(self, window: Window) -> None:
        """Shows a training record: samples, speed, loss, and the share of time spent waiting for data."""
        if self._console is None:
            return

        samples = window.samples
        speed = window.samples_per_second
        wait = window.data_wait_fraction
        loss_text = "–" if window.loss is None else f"{window.loss:.4f}"
        text = f"{samples:,} of {self._end:,} samples · {speed:,.0f}/s · loss {loss_text} · data wait {wait:.1%}"

        if self._bar is not None:
            self._bar.update(self._task, completed=samples, text=text)
        elif window.seconds >= self._next_line_seconds or samples >= self._end:
            seconds_left = (self._end - samples) / speed
            self._console.print(f"{text} · ETA {seconds_left:,.0f} s")
            self._next_line_seconds = window.seconds + PLAIN_LINE_SECONDS

    def print(self, *what: Any, soft_wrap: bool = False) -> None:
        """Prints above the bar."""
        if self._console is not None:
            self._console.print(*what, soft_wrap=soft_wrap)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()


def _make_bar(console: Console) -> Progress:
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)
