"""Printing for people: names and values appear as they are, whatever they contain.

A column may be called `[id]`, a value may be `[/red]`, `:smile:` or hold an escape sequence. None of that is markup for
the console, and none of it reaches the terminal as a command.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.text import Text

WIDTH_OF_FILES = 140
"""Wide enough for every table, where the output is no terminal."""
LATE_SECONDS = 2.0
_UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for the line feed, what turns the direction of text, and bytes that are no text."""


def visible(text: str) -> str:
    """The text with an escape such as \\x1b for each character that would act instead of being seen."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PlainConsole(Console):
    """A console that takes no text for markup or emoji, and lets no control character through.

    Every string that is printed, in a table or a title too, goes through `render_str`; a `Text` is for what the program
    says itself.
    """

    def __init__(self, *, stderr: bool, width: int | None = None, record: bool = False) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False, record=record)

    def render_str(self, text: str, **options: Any) -> Text:
        """Text as it is."""
        return super().render_str(visible(text), **options)


def make_console(*, stderr: bool = False, record: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for every table where there is none.

    `record`: what is printed can be saved as a page.
    """
    console = PlainConsole(stderr=stderr, record=record)
    return console if console.is_terminal else PlainConsole(stderr=stderr, width=WIDTH_OF_FILES, record=record)


def tell(kind: str, message: str) -> None:
    """One line on standard error: `warning: …`."""
    one_line = " ".join(message.split())
    sys.stderr.write(f"{kind}: {visible(one_line)}\n")


class LateProgress:
    """Context of work that is seldom long: after `LATE_SECONDS` it is told of, on a terminal with a bar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._begin = time.monotonic()
        self._console = make_console(stderr=True)
        self._bar = Progress(console=self._console, disable=not self._console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> "LateProgress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """So much is done."""
        if self._task is None and time.monotonic() - self._begin > LATE_SECONDS:
            if not self._console.is_terminal:
                tell("note", f"{self._text}: {done:,} of {total:,} after {LATE_SECONDS:g} s")
            self._task = self._bar.add_task(self._text, total=total)
            self._bar.start()
        if self._task is not None:
            self._bar.update(self._task, completed=done)


@contextmanager
def count_progress(text: str, total: int, is_shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, where that is a terminal; the function adds what it is given."""
    console = make_console(stderr=True)
    with Progress(console=console, disable=not (is_shown and console.is_terminal)) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)
