"""An HTML page as a tree of elements, written to one file that needs no other: no script, no font, no network.

Text enters the page through the tree only, so that what a name or a message contains is never taken for markup, and
control characters are shown. The page reads on a phone (what is wider scrolls by itself), in dark mode and on paper.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from data.storage.files import replaced
from trainer.console import visible
from trainer.errors import ConfigError

Content: TypeAlias = Element | str | None
"""None: nothing, not even a space."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser itself refuses whatever the page would load or run."""

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --raised: #f3f5f7; --text: #1b1f24; --quiet: #59636e;
  --rule: #d5dae0; --better: #0a5cb0; --worse: #a84300; --heat: 10 92 176; --negative: 190 84 0; --most: .62;
  --c0: #303030; --c1: #0a6fd0; --c2: #dd6a00; --c3: #7a1f6a; --c4: #1a9c88; --c5: #8f2b1a; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14181d; --raised: #1e242b; --text: #e6eaee;
  --quiet: #9aa5b1; --rule: #39424d; --better: #7ab8ff; --worse: #ffa65c;
  --heat: 110 178 255; --negative: 255 166 92; --most: .5;
  --c0: #f0f0f0; --c1: #58a6f5; --c2: #ff9b45; --c3: #e68fd8; --c4: #1fae90; --c5: #f4e04a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 1rem 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p, ul { max-width: 46rem; margin: .5rem 0; }
a { color: var(--better); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: .75rem 0; }
.quiet, figcaption p { color: var(--quiet); font-size: .875rem; }
.verdicts { padding: .75rem 1rem; list-style: none; background: var(--raised); border-left: 4px solid var(--c1);
  border-radius: 4px; }
.verdicts li + li { margin-top: .4rem; }
.better { color: var(--better); font-weight: 600; }
.worse { color: var(--worse); font-weight: 600; }
.scroll { overflow-x: auto; max-width: 100%; margin: .25rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .35rem .75rem; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
thead th { color: var(--quiet); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
tbody th { font-weight: 600; min-width: 6rem; }
tbody th:first-child { position: sticky; left: 0; background: var(--page); }
.number { text-align: right; white-space: nowrap; }
.long { min-width: 15rem; overflow-wrap: anywhere; }
td small, th small { display: block; color: var(--quiet); font-size: .8rem; font-weight: 400; }
details { margin: .5rem 0; }
summary { cursor: pointer; padding: .25rem 0; }
.beside { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.beside > * { max-width: 100%; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem; }
figure { margin: .5rem 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .95rem; }
figcaption p { font-weight: 400; margin: .1rem 0; }
svg.chart { display: block; width: 100%; max-width: 36rem; height: auto; }
svg text { fill: var(--quiet); font-size: 13px; }
.grid { stroke: var(--rule); stroke-width: 1; }
.reference { stroke: var(--quiet); stroke-width: 1.5; stroke-dasharray: 1 4; stroke-linecap: round; }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.interval { stroke: currentColor; stroke-width: 5; opacity: .35; stroke-linecap: butt; }
.faint { stroke-width: 1.2; opacity: .3; }
.marker { fill: var(--page); stroke: currentColor; stroke-width: 1.8; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .1rem 0 .3rem; padding: 0; list-style: none;
  font-weight: 400; font-size: .85rem; max-width: none; }
.legend svg { width: 40px; height: 12px; margin-right: .35rem; vertical-align: middle; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
.legend span { color: var(--text); }
.heat td { min-width: 2.8rem; border: 2px solid var(--page);
  background: rgb(var(--heat) / calc(var(--strength) * var(--most)));
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.heat td.negative { background: rgb(var(--negative) / calc(var(--strength) * var(--most))); }
.heat td, .heat thead th { padding: .35rem; }
.heat thead th + th { text-align: right; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 0 1.5rem; }
@media (max-width: 40rem) { th, td { padding: .35rem .5rem; }
  tbody th { min-width: 9.5rem; max-width: 10rem; overflow-wrap: anywhere; }
  .heat tbody th { min-width: 6rem; } }
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } nav { display: none; } }
"""


def element(tag: str, *contents: Content, **attributes: str | None) -> Element:
    """An element; attributes are named with _ for -, and with a last _ where Python has the word: `class_`."""
    result = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            result.set(name.rstrip("_").replace("_", "-"), visible(value))

    # Text stands before the first child, in `text`, or behind a child, in its `tail`.
    for content in contents:
        if isinstance(content, Element):
            result.append(content)
        elif content and len(result):
            last = result[-1]
            last.tail = (last.tail or "") + visible(content)
        elif content:
            result.text = (result.text or "") + visible(content)

    return result


def decimal(value: float, form: str = ".4f") -> str:
    """A number with a true minus sign."""
    return f"{value:{form}}".replace("-", "−")


def paragraph(*contents: Content) -> Element:
    """A paragraph in small grey letters."""
    return element("p", *contents, class_="quiet")


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Content]], *, words: Sequence[str] = (), kind: str = ""
) -> Element:
    """A table that scrolls by itself where it is too wide; columns are numbers but for the first and those in `words`.

    `caption` stands above it; the first cell of a row names the row.
    """
    classes = [None if name == head[0] or name in words else "number" for name in head]
    titles = element("tr")

    for name, class_ in zip(head, classes, strict=True):
        titles.append(element("th", name, class_=class_, scope="col"))

    thead = element("thead", titles)
    tbody = element("tbody", *(_table_row(row, classes) for row in rows))

    content = element("table", thead, tbody, class_=kind or None, aria_label=caption)
    scroll = element("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return element("div", paragraph(caption), scroll)


def _table_row(cells: Sequence[Content], classes: Sequence[str | None]) -> Element:
    first, *others = cells
    row = element("tr", element("th", first, class_=classes[0], scope="row"))
    for cell, kind in zip(others, classes[1:], strict=True):
        row.append(element("td", cell, class_=kind))
    return row


def folded(summary: str, *contents: Content, opened: bool = False) -> Element:
    """Content behind a line that opens it."""
    return element("details", element("summary", summary), *contents, open="open" if opened else None)


def section(name: str, title: str, *contents: Content) -> Element:
    """A part of the page; `name` is where links lead to."""
    return element("section", element("h2", title, id=name), *contents)


def page(title: str, contents: Iterable[Content]) -> Element:
    """The whole document."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", STYLE),
    )
    return element("html", head, element("body", element("main", *contents)), lang="en")


def check_target(path: Path) -> None:
    """Raises ConfigError if no page can be written at `path`."""
    if path.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out {str(path)!r} is no HTML file by its name; name one that ends in .html")
    if path.is_dir():
        raise ConfigError(f"--out {str(path)!r} is a folder; name a file, such as {str(path / 'report.html')!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")


def write_page(path: Path, document: Element) -> None:
    """Writes the document in one step; raises ConfigError if it cannot be written."""
    body = ElementTree.tostring(document, encoding="unicode", method="html")
    text = f"<!DOCTYPE html>\n{body}\n"
    try:
        with replaced(path) as file:
            file.write(text.encode("utf-8", "replace"))  # a folder's name need not be text
    except OSError as error:
        raise ConfigError(f"--out {str(path)!r} cannot be written ({error.strerror})") from error
