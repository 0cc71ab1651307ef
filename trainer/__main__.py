"""The program: `adatt`, and `python -m trainer` so that torchrun can start it."""

import sys

from trainer.installation import find_shadow


def main() -> None:
    """Runs a command and ends the process with its exit code."""
    problem = find_shadow()
    if problem:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)
    from trainer.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
