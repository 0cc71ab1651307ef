"""Heat maps, as tables."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from trainer.analysis.report.html import decimal, element, table


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    numbers: Sequence[Sequence[float | None]],
    *,
    corner: str = "unit",
    largest: float = 0.0,
) -> Element:
    """A table whose numbers stand on a ground as strong as they are large; negative ones in another colour.

    `corner`: what the rows are. `largest`: the number with the strongest ground, if there is none larger.
    """
    known = [number for row in numbers for number in row if number is not None]
    largest = max([largest, *map(abs, known)]) or 1.0

    empty = [""] * len(columns)
    frame = table(title, [corner, *columns], [[row, *empty] for row in rows], kind="heat")

    for row, values in zip(frame.findall(".//tbody/tr"), numbers, strict=True):
        for cell, number in zip(row.findall("td"), values, strict=True):
            if number is not None:
                cell.text = decimal(number, ".2f")
                cell.set("style", f"--strength: {abs(number) / largest:.2f}")
                cell.set("class", "number negative" if number < 0 else "number")
            else:
                cell.set("style", "--strength: 0")

    return element("figure", frame)
