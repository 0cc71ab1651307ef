"""Checks that the program runs from one installation: its packages have names that others could have too."""

from importlib.util import find_spec
from pathlib import Path

from data.errors import UserError

PACKAGES = ("data", "launch", "models")


def check_installation() -> None:
    """UserError where one of the packages comes from elsewhere than `trainer`."""
    home = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is None or origin.parents[1] != home:
            where = (
                origin.parent
                if origin
                else (next(iter(spec.submodule_search_locations or []), "?") if spec else "nowhere")
            )
            raise UserError(
                f"package {name!r} comes from {where}, not from {home / name}: something in the path shadows it; "
                "start from another folder or install the program into an environment of its own"
            )
