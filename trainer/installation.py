"""Checks that the program runs from one installation: its packages have names that others could have too.

Imports nothing of the program: what it would import may be what is shadowed.
"""

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("benchmarks", "data", "launch", "models")


def find_shadow() -> str | None:
    """What is wrong where one of the packages comes from elsewhere than `trainer`; None: nothing."""
    home = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if found != home / name / "__init__.py":
            return (
                f"package {name!r} comes from {found or 'nowhere'}, not from {home / name}: something shadows "
                "it; start from another folder or install the program into an environment of its own"
            )

    return None
