"""The program: `adatt`, and `python -m trainer` so that torchrun can start it."""

import os
import sys

from trainer.installation import find_shadow


def main() -> None:
    """Runs a command and ends the process with its exit code."""
    _use_utf8()

    problem = find_shadow()
    if problem:  # nothing else of the program has been imported: that may be what is shadowed
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)

    from trainer.distributed.torchrun_env import speaks
    from trainer.process.ending import leave_after

    leave_after(_command, speaks=speaks())


def _command() -> int:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of a setting that trainer.build_model explains
    from trainer.cli.app import run

    return run(sys.argv[1:])


def _use_utf8() -> None:
    """Starts anew in Python's UTF-8 mode where the locale's encoding is another one: names of files are then UTF-8.

    Output stays in the encoding that the terminal expects.
    """
    if sys.getfilesystemencoding() != "utf-8" and sys.orig_argv:
        encoding = sys.stdout.encoding if sys.stdout else "utf-8"
        environment = {"PYTHONIOENCODING": encoding, **os.environ}
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


if __name__ == "__main__":
    main()
