"""Heat maps of fusion weights, as tables."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from trainer.analysis.report.html import decimal, element, table


def heat_map(title: str, units: Sequence[str], experts: Sequence[str], weights: Sequence[Sequence[float]]) -> Element:
    """A table of units × experts, each number on a ground as strong as it is large; negative ones in another colour."""
    largest = 0.0
    for row_of_weights in weights:
        largest = max([largest, *map(abs, row_of_weights)])

    largest = largest or 1.0

    empty = [""] * len(experts)
    rows = [[unit, *empty] for unit in units]
    frame = table(title, ["unit", *experts], rows, kind="heat")

    for row, numbers in zip(frame.findall(".//tbody/tr"), weights, strict=True):
        for cell, weight in zip(row.findall("td"), numbers, strict=True):
            cell.text = decimal(weight, ".2f")
            cell.set("style", f"--strength: {abs(weight) / largest:.2f}")
            cell.set("class", "number negative" if weight < 0 else "number")

    return element("figure", frame)
