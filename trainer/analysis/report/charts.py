"""Line charts as SVG in the page's own colours, which follow light and dark, and heat maps as tables.

A line differs from the others in colour, dashes and markers at once; the colours differ in lightness too, so that they
differ for colour-blind readers. Every figure has a text alternative that holds its numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from trainer.analysis.report.html import element
from trainer.analysis.report.lines import Line, thinned
from trainer.analysis.report.ticks import tick_texts, ticks

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 26, 12, 40
"""Around the plotting area, for ticks and their texts."""
APART, SPREAD = 6, 24
"""Distance of lines with intervals from one another, and the most from the first to the last."""
ALL_MARKERS = 16
"""A line of more points has markers at some of them only."""
COLOURS = 6
SAMPLES = "samples"
DASHES = (None, "7 4", "2 3", "10 3 2 3", "12 5")
MARKERS = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "m-3.5 -3.5h7v7h-7z",
    "m0 -4.5l4.5 8h-9z",
    "m0 -5l5 5l-5 5l-5 -5z",
    "m0 4.5l4.5 -8h-9z",
)
"""Circle, square, triangle, diamond, triangle on its head; as many as dashes, so that 30 lines differ."""


@dataclass(frozen=True)
class Chart:
    """Lines over samples."""

    title: str
    note: str
    """What the axis shows and which direction is good."""
    alternative: str
    """The finding in numbers, for those who do not see the figure."""
    lines: Sequence[Line]
    reference: float | None = None
    """A horizontal line."""
    from_zero: bool = False
    percent: bool = False
    """Values are fractions and shown in per cent; intervals that reach beyond ± 100 % are cut off there."""
    across: str = SAMPLES
    """What the points lie along: counts of samples; whatever else is a share, shown in per cent."""


@dataclass(frozen=True)
class _Axes:
    """What of the data the plotting area shows."""

    end: float
    low: float
    high: float

    def x(self, samples: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * samples / self.end

    def y(self, value: float) -> float:
        height = HEIGHT - TOP - BOTTOM
        return TOP + height * (self.high - value) / (self.high - self.low)


def line_chart(chart: Chart) -> Element:
    """The chart with its title and legend."""
    lines = [line for line in map(thinned, chart.lines) if line.points]
    faint = [line for line in lines if line.faint]
    in_front = [line for line in lines if not line.faint]
    axes = _axes(chart, lines)

    drawing = element(
        "svg",
        *_grid(chart, axes),
        _background(axes, faint),
        *_foreground(chart, axes, in_front),
        class_="chart",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{chart.title}. {chart.alternative}",
    )
    caption = element("figcaption", chart.title, element("p", chart.note), _legend(lines))
    return element("figure", caption, drawing)


def _axes(chart: Chart, lines: list[Line]) -> _Axes:
    """Axes that show all lines, with a little room above and below."""
    values = _shown_values(chart, lines)
    low = min(values, default=0.0)
    high = max(values, default=1.0)
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    bottom = low if chart.from_zero and low == 0 else low - margin

    end = 1.0
    if chart.across == SAMPLES:
        last_samples = [line.points[-1][0] for line in lines]
        end = max(last_samples, default=1.0) or 1.0

    return _Axes(end, bottom, high + margin)


def _shown_values(chart: Chart, lines: list[Line]) -> list[float]:
    """Every value that has to lie within the plotting area."""
    values: list[float] = []
    for line in lines:
        # The first values of a line in the background are often far off, and may be cut off.
        start = len(line.points) // 2 if line.faint else 0
        values += [value for _, value in line.points[start:]]
        for low, high in line.intervals:
            if chart.percent:
                low = _within_one(low)
                high = _within_one(high)
            values += [low, high]

    if chart.from_zero:
        values.append(0.0)

    if chart.reference is not None:
        values.append(chart.reference)

    return values


def _within_one(bound: float) -> float:
    return min(max(bound, -1.0), 1.0)


def _grid(chart: Chart, axes: _Axes) -> list[Element]:
    right = WIDTH - RIGHT
    bottom = HEIGHT - BOTTOM
    parts = []
    values = ticks(axes.low, axes.high)

    for value, text in zip(values, tick_texts(values, percent=chart.percent), strict=True):
        y = axes.y(value)
        parts.append(_line(LEFT, y, right, y, "grid"))
        parts.append(_text(text, LEFT - 6, y + 4, "end"))

    if chart.reference is not None:
        y = axes.y(chart.reference)
        parts.append(_line(LEFT, y, right, y, "reference"))

    counts = ticks(0, axes.end, 5)
    for value, text in zip(counts, tick_texts(counts, percent=chart.across != SAMPLES), strict=True):
        x = axes.x(value)
        parts.append(_line(x, bottom, x, bottom + 4, "grid"))
        text_x = min(x, WIDTH - 18)  # the last text must not leave the figure
        parts.append(_text(text, text_x, bottom + 17, "middle"))

    parts.append(_text(chart.across, right, HEIGHT - 4, "end"))
    return parts


def _background(axes: _Axes, lines: list[Line]) -> Element:
    """Faint lines, cut off at the edges of the plotting area, as an SVG inside another does by itself."""
    width = WIDTH - LEFT - RIGHT
    height = HEIGHT - TOP - BOTTOM
    drawn = [_polyline(line, axes) for line in lines]

    return element(
        "svg",
        *drawn,
        x=str(LEFT),
        y=str(TOP),
        width=str(width),
        height=str(height),
        viewBox=f"{LEFT} {TOP} {width} {height}",
    )


def _foreground(chart: Chart, axes: _Axes, lines: list[Line]) -> list[Element]:
    """The other lines; those with intervals a little apart, so that these do not lie upon one another."""
    parts = []
    apart = min(APART, SPREAD / len(lines)) if lines else 0
    middle = (len(lines) - 1) / 2

    for index, line in enumerate(lines):
        aside = apart * (index - middle) if line.intervals else 0
        drawn = [_polyline(line, axes)]
        drawn += _intervals(line, axes)
        drawn += _markers(chart, line, axes)
        parts.append(element("g", *drawn, transform=f"translate({aside:g} 0)"))

    return parts


def _intervals(line: Line, axes: _Axes) -> list[Element]:
    """An upright line for each interval, cut off at the edges of the plotting area."""
    parts = []
    for (samples, _), (low, high) in zip(line.points, line.intervals, strict=bool(line.intervals)):
        x = axes.x(samples)
        lower = axes.y(max(low, axes.low))
        upper = axes.y(min(high, axes.high))
        parts.append(_line(x, lower, x, upper, f"interval {_colour(line)}"))

    return parts


def _markers(chart: Chart, line: Line, axes: _Axes) -> list[Element]:
    """Markers that show their values when pointed at: all, or some of many."""
    shown = line.points
    if len(shown) > ALL_MARKERS:
        distance = len(shown) // (ALL_MARKERS // 2)
        shown = shown[::distance]

    scale, unit = (100, " %") if chart.percent else (1, "")

    parts = []
    for samples, value in shown:
        position = _position(chart, samples)
        number = f"{scale * value:.5g}{unit}"
        tip = element("title", f"{line.name}, {position}: {number}")
        x = axes.x(samples)
        y = axes.y(value)
        path = f"M{x:.1f} {y:.1f}{_marker(line)}"
        parts.append(element("path", tip, d=path, class_=f"marker {_colour(line)}"))

    return parts


def _position(chart: Chart, x: float) -> str:
    if chart.across == SAMPLES:
        return f"{round(x):,} samples"
    return f"{x:.0%} of the {chart.across}"


def _polyline(line: Line, axes: _Axes) -> Element:
    points = [f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in line.points]
    kind = f"line {_colour(line)}"
    if line.faint:
        kind += " faint"
    return element("polyline", points=" ".join(points), class_=kind, stroke_dasharray=_dashes(line))


def _legend(lines: list[Line]) -> Element:
    """The lines in front, or where there are none those in the background."""
    in_front = [line for line in lines if not line.faint]
    entries = []

    for line in in_front or lines:
        stroke = element("path", d="M0 6h40", class_="line", stroke_dasharray=_dashes(line))
        marker = None if line.faint else element("path", d=f"M20 6{_marker(line)}", class_="marker")
        sample = element("svg", stroke, marker, viewBox="0 0 40 12", aria_hidden="true")
        entries.append(element("li", sample, element("span", line.name), class_=_colour(line)))

    return element("ul", *entries, class_="legend")


def _colour(line: Line) -> str:
    return f"c{line.style % COLOURS}"


def _dashes(line: Line) -> str | None:
    return None if line.faint else DASHES[line.style % len(DASHES)]


def _marker(line: Line) -> str:
    return MARKERS[line.style % len(MARKERS)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Element:
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)


def _text(text: str, x: float, y: float, anchor: str) -> Element:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
