"""The section of the report that says which experts the tasks use: fusion weights, and entropies of the gates."""

from statistics import fmean

from trainer.analysis.report.charts import Chart
from trainer.analysis.report.figures import figures, first_and_last
from trainer.analysis.report.heat_maps import heat_map
from trainer.analysis.report.html import Content, decimal, element, paragraph
from trainer.analysis.report.lines import Line
from trainer.analysis.report.run_records import RunRecords
from trainer.run.matrices import LevelWeights

ENTROPY = "gate_entropy/"
"""How the keys of the training records begin that hold entropies: gate_entropy/LEVEL/UNIT."""


def fusion_figures(runs: list[RunRecords]) -> list[Content]:
    """Weights and entropies of each run that has some, and in one sentence which have none."""
    contents: list[Content] = []
    for run in runs:
        of_run = [*_fusion_maps(run), *_entropies(run)]
        if of_run:
            contents.append(element("h3", f"{run.name} ({run.config.model.head})"))
            contents += of_run

    missing = [run.name for run in runs if run.fusion is None]
    if missing:
        of_which = f" of {', '.join(missing)}" if len(runs) > 1 else ""
        reason = "the head has no gates, or has not been evaluated yet"
        contents.append(paragraph(f"No fusion weights{of_which}: {reason}."))

    return contents


def _fusion_maps(run: RunRecords) -> list[Content]:
    if run.fusion is None:
        return []

    maps = []
    for index, level in enumerate(run.fusion.levels):
        caption = _caption(level, index)
        maps.append(heat_map(caption, level.units, level.experts, level.weights))

    note = f"Mean over the test set at {run.fusion.samples:,} samples; gate and native part together."
    return [paragraph(note), element("div", *maps, class_="figures wide")]


def _caption(level: LevelWeights, index: int) -> str:
    """The largest weight and the least used expert of a level, in words."""
    if not level.units or not level.experts:
        return f"Level {index}: no experts"

    cells = []
    for unit, row in zip(level.units, level.weights, strict=True):
        cells += [(weight, unit, expert) for expert, weight in zip(level.experts, row, strict=True)]

    weight, unit, expert = max(cells)

    columns = zip(*level.weights, strict=True)
    means = [fmean(map(abs, column)) for column in columns]
    least, name = min(zip(means, level.experts, strict=True))

    largest = f"Largest weight: {unit} on {expert}, {decimal(weight, '.2f')}"
    least_used = f"Least used expert: {name}, {least:.2f} on average"
    return f"Level {index}, units by experts. {largest}. {least_used}."


def _entropies(run: RunRecords) -> list[Content]:
    """How evenly each gate spreads its weight while training, so that a collapsed one shows."""
    keys_of_levels: dict[str, dict[str, None]] = {}
    for window in run.windows:
        for key in window.figures:
            if key.startswith(ENTROPY):
                _, level, _ = key.split("/", 2)
                keys_of_levels.setdefault(level, {})[key] = None

    charts: list[Chart | None] = []
    for level, keys in keys_of_levels.items():
        charts.append(_entropy_chart(run, level, list(keys)))

    return figures(charts, "") if charts else []


def _entropy_chart(run: RunRecords, level: str, keys: list[str]) -> Chart:
    lines: list[Line] = []
    for style, key in enumerate(keys):
        _, _, unit = key.split("/", 2)
        lines.append(Line(unit, run.curve(key), style))

    texts = [f"{line.name} {first_and_last(line.points)}" for line in lines]
    title = f"Entropy of the gates, level {level}"
    note = "1: all experts alike; 0: one expert takes all"
    alternative = f"{run.name}: {'; '.join(texts)}"

    return Chart(title, note, alternative, lines, 1.0, from_zero=True)
