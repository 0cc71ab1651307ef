"""The program: `adatt`, and `python -m trainer` so that torchrun can start it."""

import os
import sys

from trainer.installation import find_shadow


def main() -> None:
    """Runs a command and ends the process with its exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of a setting that trainer.build explains
    problem = find_shadow()
    if problem:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)
    from trainer.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
