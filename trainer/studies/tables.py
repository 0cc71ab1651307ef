"""A study's results as tables of text, in the form of the paper's and beside them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from data.counts import format_count
from trainer.analysis.compare.compare import Difference
from trainer.analysis.compare.table import unit_text
from trainer.run.matrices import LevelWeights
from trainer.studies.equal_flops import cost_of
from trainer.studies.results import AucDifference, Results, holm, holm_at_end, rank_agreement
from trainer.studies.study import Expanded, PaperTable

UNDEFINED = "–"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class StudyTable:
    """One table; the first column holds words, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def study_tables(study: Expanded, results: Results) -> list[StudyTable]:
    """All tables of the page, the findings first."""
    tables = [
        *(_auc_tables(study, results) if study.study.metric == "auc" else ()),
        *(_end_table(study, results) if study.study.metric == "end" else ()),
        *_relative_tables(study, results),
        *_rival_tables(study, results),
        *_order_table(results),
        *(_fusion_tables(results) if study.study.fusion else ()),
        cost_table(study),
    ]
    return [table for table in tables if table.rows]


def _relative_tables(study: Expanded, results: Results) -> Iterator[StudyTable]:
    baseline = study.study.baseline
    differences = results.against[baseline]
    corrected = holm_at_end(differences)
    by_auc = {entry.task for entry in results.aucs} if study.study.metric == "auc" else set()

    for task in (task for task in results.tasks if task not in by_auc):
        of_task = [entry for entry in differences if entry.task == task]
        paper = next((table for table in study.study.paper if table.task == task), None)
        if of_task:
            yield _relative_table(of_task, corrected, paper, len(corrected))


def _relative_table(
    entries: list[Difference], corrected: dict[tuple[str, str], float], paper: PaperTable | None, family: int
) -> StudyTable:
    first = entries[0]
    points = {entry.column: entry for entry in sorted(entries, key=lambda entry: entry.samples)}
    papers = [f"paper {column}" for column in paper.columns] if paper else []
    empty = [UNDEFINED] * len(papers)
    rows = [[first.baseline, *(value_cell(entry.baseline_value) for entry in points.values()), "", *empty]]

    for run in dict.fromkeys(entry.run for entry in entries):
        cells = {entry.column: difference_cell(entry) for entry in entries if entry.run == run}
        p_value = corrected.get((run, first.task))
        values = [f"{value:+.3f}" for value in paper.values.get(run, ())] if paper else []
        rows.append([run, *(cells.get(point, UNDEFINED) for point in points), p_cell(p_value), *(values or empty)])

    title = f"{first.task}: {first.metric.upper()} against {first.baseline}, in per cent"
    if paper:
        title += f"; {paper.title}"
    note = (
        f"Lower is better. First row: {first.metric.upper()} itself. In brackets 95 % intervals "
        f"({unit_text(first.unit)}; {first.seeds} seeds). p: of no difference at the end, corrected for {family} "
        "comparisons (Holm)."
    )
    return StudyTable(title, ["", *points, "p", *papers], rows, note)


def value_cell(value: float | None) -> str:
    """Four decimals, or six digits of what is large."""
    if value is None:
        return UNDEFINED
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.6g}"


def difference_cell(entry: Difference) -> str:
    """-0.512 [-0.640, -0.384]"""
    if entry.relative_percent is None:
        return UNDEFINED
    if entry.low_percent is None:
        return f"{entry.relative_percent:+z.3f}"
    return f"{entry.relative_percent:+z.3f} [{entry.low_percent:+z.3f}, {entry.high_percent:+z.3f}]"


def p_cell(p_value: float | None) -> str:
    """A p value; with a star where it is below 0.05."""
    if p_value is None:
        return UNDEFINED
    text = "<0.001" if p_value < 1e-3 else f"{p_value:.3f}"
    return text + (" *" if p_value < SIGNIFICANT else "")


def _auc_tables(study: Expanded, results: Results) -> Iterator[StudyTable]:
    family = {(entry.variant, entry.task): entry.p_value for entry in results.aucs if entry.p_value is not None}
    corrected = holm(family)
    tasks = list(dict.fromkeys(entry.task for entry in results.aucs))
    papers = {table.task: table for table in study.study.paper}
    paper_header = ["paper"] if papers else []

    for task in tasks:
        entries = sorted((entry for entry in results.aucs if entry.task == task), key=lambda entry: -entry.auc)
        rows = []
        for entry in entries:
            values = papers[task].values.get(entry.variant, ()) if task in papers else ()
            paper = [f"{value:.4f}" for value in values[:1]] or [UNDEFINED] * len(paper_header)
            p_value = p_cell(corrected.get((entry.variant, task)))
            rows.append([entry.variant, *_auc_cells(entry, study.study.baseline), p_value, *paper])

        seeds = len(results.ends[entries[0].variant])
        yield StudyTable(
            f"{task}: AUC, best first",
            ["", "AUC", "± SE", f"against {study.study.baseline}", "p", *paper_header],
            rows,
            f"Mean over {seeds} initialisations. SE, intervals and p (Holm, {len(corrected)} comparisons) are over "
            "initialisations on these test rows, paired by seed; other test rows are not accounted for.",
        )


def _auc_cells(entry: AucDifference, baseline: str) -> list[str]:
    against = UNDEFINED
    if entry.variant != baseline:
        low, high = entry.difference - entry.half, entry.difference + entry.half
        against = f"{entry.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
    return [f"{entry.auc:.4f}", f"{entry.standard_error:.4f}", against]


def _end_table(study: Expanded, results: Results) -> Iterator[StudyTable]:
    """Every variant at its own end, variants × tasks; the last row is that of the true conditional means."""
    last = {task: record for runs in results.ends.values() for run in runs for task, record in run.items()}
    rows = []
    for name, runs in results.ends.items():
        cells = [mean_cell([run[task].main for run in runs if task in run]) for task in last]
        rows.append([name, format_count(int(study.configs[name].train.samples)), *cells])

    if any(record.oracle is not None for record in last.values()):
        rows.append(["oracle", "", *(mean_cell([record.oracle]) for record in last.values())])

    header = [f"{task} {record.main_metric.upper()}" for task, record in last.items()]
    note = f"Lower is better. Mean ± standard error over {len(study.seeds)} seeds. Oracle: the true conditional means."
    yield StudyTable("Every variant at its own end", ["", "samples", *header], rows, note)


def mean_cell(values: Sequence[float | None]) -> str:
    """0.8066 ± 0.0003, the mean with its standard error."""
    known = [value for value in values if value is not None]
    if not known:
        return UNDEFINED
    error = f" ± {stdev(known) / math.sqrt(len(known)):.4f}" if len(known) > 1 else ""
    return f"{fmean(known):.4f}{error}"


def _rival_tables(study: Expanded, results: Results) -> Iterator[StudyTable]:
    """The end alone, variants × tasks."""
    for rival in study.study.rivals:
        differences = results.against.get(rival, [])
        last = max((entry.samples for entry in differences), default=0)
        corrected = holm_at_end(differences)
        rows = []
        for name in results.variants:
            cells = [
                f"{difference_cell(entry)} p {p_cell(corrected.get((name, entry.task)))}"
                for entry in differences
                if entry.run == name and entry.samples == last
            ]
            if cells:
                rows.append([name, *cells])
        note = f"Lower is better than {rival}; p corrected for {len(corrected)} comparisons (Holm)."
        yield StudyTable(f"Every variant against {rival} at the end, in per cent", ["", *results.tasks], rows, note)


def _order_table(results: Results) -> Iterator[StudyTable]:
    """NE and AUC at the end, side by side: do they rank alike?"""
    taus = {task: rank_agreement(results, task) for task in results.tasks}
    tasks = [task for task, tau in taus.items() if tau is not None]
    if not tasks:
        return

    rows = []
    for name, runs in results.ends.items():
        cells = []
        for task in tasks:
            cells += [
                f"{fmean(run[task].ne or 0 for run in runs):.4f}",
                f"{fmean(run[task].auc or 0 for run in runs):.4f}",
            ]
        rows.append([name, *cells])

    header = [f"{task} {metric}" for task in tasks for metric in ("NE", "AUC")]
    agreement = ", ".join(f"{task} {taus[task]:.2f}" for task in tasks)
    note = f"Kendall's tau of the two orders (1: the same, 0: unrelated): {agreement}."
    yield StudyTable("Does AUC rank as NE does? Means at the end", ["", *header], rows, note)


def _fusion_tables(results: Results) -> Iterator[StudyTable]:
    for name, levels in results.fusion.items():
        for number, level in enumerate(levels):
            yield _fusion_table(name, number, level)


def _fusion_table(name: str, number: int, level: LevelWeights) -> StudyTable:
    rows = [
        [unit, *(f"{weight:.3f}" for weight in weights)]
        for unit, weights in zip(level.units, level.weights, strict=True)
    ]
    title = f"{name}, level {number}: weight of each expert, mean over test rows and seeds"
    note = "Gate and, in AdaTT, native part together: rows of a gate alone add up to 1."
    return StudyTable(title, ["unit", *level.experts], rows, note)


def _in_words(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def cost_table(study: Expanded) -> StudyTable:
    """What each variant's head is and takes."""
    rows = []
    for name, config in study.configs.items():
        cost = cost_of(config)
        keys = config.model.model_dump(exclude={"head", "levels", "tower", "activation", "dropout"})
        experts = ", ".join(f"{key} {_in_words(value)}" for key, value in keys.items()) or UNDEFINED
        chosen = ", ".join(f"{key} {value}" for key, value in study.chosen.get(name, {}).items()) or UNDEFINED
        levels = [list(level) for level in config.model.levels]
        flops = f"{cost.training_flops / 1e6:#.4g}"
        rows.append([name, config.model.head, str(levels), experts, flops, f"{cost.parameters:,}", chosen])

    counts = [int(config.train.samples) for config in study.configs.values()]
    samples = " to ".join(dict.fromkeys(format_count(count).replace("_", ",") for count in (min(counts), max(counts))))
    of_each = f"{samples} samples, {len(study.seeds)} seeds"
    note = f"MFLOP: of the head, for each training sample, forward and backward. {of_each}."
    return StudyTable(
        "Heads", ["", "head", "levels", "experts", "MFLOP", "parameters", "chosen on validation"], rows, note
    )
