"""The sections of the report that are curves over samples: metrics, calibration and speed."""

from collections.abc import Iterable
from statistics import fmean, median

from models.tasks import TaskConfig
from trainer.analysis.report.charts import Chart, line_chart
from trainer.analysis.report.evaluations import UNDEFINED, number
from trainer.analysis.report.html import Content, element, paragraph, table
from trainer.analysis.report.lines import Line
from trainer.analysis.report.run_records import RunRecords
from trainer.evaluation.calibration import CalibrationCurve

Curve = list[tuple[float, float]]
"""(samples, value), by samples."""
FEW_RUNS = 4
"""Intervals of more runs would hide one another."""


def figures(charts: list[Chart | None], none: str) -> list[Content]:
    """The charts that there are, or the sentence `none`."""
    drawn = [line_chart(chart) for chart in charts if chart is not None]
    return [element("div", *drawn, class_="figures")] if drawn else [paragraph(none)]


def first_and_last(points: Iterable[tuple[float, float]]) -> str:
    """A curve in words, for its text alternative."""
    texts = [f"{number(value)} at {samples:,.0f} samples" for samples, value in points]
    if not texts:
        return "has not been evaluated"
    return " to ".join(dict.fromkeys([texts[0], texts[-1]]))


def learning_curves(runs: list[RunRecords], tasks: list[TaskConfig]) -> list[Content]:
    """NE or MSE of each task over samples."""
    charts = []
    for task in tasks:
        metric = "ne" if task.binary else "mse"
        charts.append(_metric_chart(runs, task.name, metric, f"{metric.upper()}, lower is better"))
    curves = figures(charts, "No evaluation and no training record with NE or MSE yet.")
    return [*curves, *window_curves(runs, tasks)]


def window_curves(runs: list[RunRecords], tasks: list[TaskConfig]) -> list[Content]:
    """NE or MSE of each task on every window before it was trained; nothing if no run has measured that."""
    charts = [_window_chart(runs, task) for task in tasks]
    return figures(charts, "") if any(charts) else []


def _window_chart(runs: list[RunRecords], task: TaskConfig) -> Chart | None:
    lines: list[Line] = []
    texts: list[str] = []
    for run in runs:
        records = [record for record in run.next_windows if record.task == task.name and record.main is not None]
        points = [(float(record.samples), record.main) for record in records if record.main is not None]
        lines.append(Line(run.name, points, run.style))
        texts += [f"{run.name} {record.window} {number(record.main)}" for record in records]

    if not texts:
        return None
    metric = "NE" if task.binary else "MSE"
    note = f"{metric} on each window before it was trained, lower is better"
    return Chart(f"{task.name}, next window", note, "; ".join(texts), lines)


def _metric_chart(
    runs: list[RunRecords], task: str, metric: str, note: str, *, reference: float | None = None
) -> Chart | None:
    """A metric on the test set at each evaluation, before that of the samples trained since the last log point."""
    tested = [Line(run.name, _evaluated(run, task, metric), run.style) for run in runs]
    trained = [Line(run.name, run.curve(f"{metric}/{task}"), run.style, faint=True) for run in runs]
    if not any(line.points for line in tested + trained):
        return None

    if any(line.points for line in trained):
        note += "; faint: on training samples, before their update, smoothed"

    texts = [f"{line.name} {first_and_last(line.points)}" for line in tested]
    alternative = f"{metric.upper()} on the test set: {'; '.join(texts)}"
    return Chart(task, note, alternative, trained + tested, reference)


def _evaluated(run: RunRecords, task: str, metric: str) -> Curve:
    # A checkpoint that was evaluated more than once has one point, at its newest value.
    values: dict[int, float | None] = {}
    for evaluation in run.evaluations:
        if evaluation.task == task:
            values[evaluation.samples] = getattr(evaluation, metric)
    return [(samples, value) for samples, value in values.items() if value is not None]


def calibration_figures(runs: list[RunRecords], tasks: list[TaskConfig]) -> list[Content]:
    """Calibration of each task over samples, and along the predictions of the newest evaluation."""
    note = "mean prediction / mean label; 1 is right"
    over_samples = [_metric_chart(runs, task.name, "calibration", note, reference=1.0) for task in tasks]
    along = [_calibration_chart(runs, task.name) for task in tasks]

    contents = figures(over_samples, "No calibration is recorded yet.")
    if any(along):
        contents += figures(along, "")

    return contents


def _calibration_chart(runs: list[RunRecords], task: str) -> Chart | None:
    """Observed / predicted rate at the newest evaluation, along the test rows in order of their prediction."""
    lines: list[Line] = []
    texts: list[str] = []

    for run in runs:
        curves = run.calibration.tasks if run.calibration else []
        for curve in curves:
            if curve.task == task:
                line = _calibration_line(run, curve, with_intervals=len(runs) <= FEW_RUNS)
                lines.append(line)
                ratios = [f"{ratio:.2f}" for _, ratio in line.points]
                texts.append(f"{run.name} {', '.join(ratios)}")

    if not lines:
        return None

    note = (
        "observed / predicted rate of each tenth of the test rows, from the lowest predictions to the highest; "
        "intervals take rows as independent"
    )
    alternative = f"Observed / predicted, by tenths: {'; '.join(texts)}"
    return Chart(f"{task} along its predictions", note, alternative, lines, 1.0, across="test rows by prediction")


def _calibration_line(run: RunRecords, curve: CalibrationCurve, *, with_intervals: bool) -> Line:
    def relative(rates: list[float]) -> list[float]:
        return [rate / predicted for rate, predicted in zip(rates, curve.predicted, strict=True)]

    points = list(zip(curve.share, relative(curve.observed), strict=True))
    bounds = zip(relative(curve.low), relative(curve.high), strict=True)
    return Line(run.name, points, run.style, intervals=list(bounds) if with_intervals else ())


def speed_figures(runs: list[RunRecords]) -> list[Content]:
    """Samples per second and the share of time spent waiting for data, between log points."""
    speeds = [Line(run.name, run.curve("samples_per_second"), run.style) for run in runs]
    waits = [Line(run.name, run.curve("data_wait_fraction"), run.style) for run in runs]
    if not any(line.points for line in speeds):
        return [paragraph("Nothing has been logged yet.")]

    rows = [_speed_row(speed, wait) for speed, wait in zip(speeds, waits, strict=True)]
    head = ["run", "samples/s, median", "lowest", "highest", "waiting for data, mean"]
    frame = table("Between log points; without evaluations and saves", head, rows)

    texts = [f"{name}: median {middle} samples/s, waiting for data {wait}" for name, middle, _, _, wait in rows]
    alternative = "; ".join(texts)
    note = "share of the time between log points"
    charts: list[Chart | None] = [
        Chart("Throughput", "samples per second, over all ranks", alternative, speeds, from_zero=True),
        Chart("Waiting for data", note, alternative, waits, from_zero=True, percent=True),
    ]

    return [frame, *figures(charts, "")]


def _speed_row(speed: Line, wait: Line) -> list[str]:
    rates = [value for _, value in speed.points]
    shares = [value for _, value in wait.points]
    if not rates or not shares:
        return [speed.name, *[UNDEFINED] * 4]

    spread = [f"{rate:,.0f}" for rate in (median(rates), min(rates), max(rates))]
    return [speed.name, *spread, f"{fmean(shares):.1%}"]
