"""Files that are copied into an export: they import nothing of the program."""

from pathlib import Path

_HASHES = "from trainer.export.standalone.hashes import MASK, mix, xxh3_64\n"


def sources() -> dict[str, str]:
    """The text of each file by its name; `features.py` has the hashes in it, so that it stands alone."""
    here = Path(__file__).parent
    names = ("features", "hashes", "score")
    features, hashes, score = ((here / f"{name}.py").read_text(encoding="utf-8") for name in names)
    _, _, functions = hashes.partition('"""\n\n')
    return {"features.py": features.replace(_HASHES, functions), "score.py": score}
