"""Names and values that hold markup, emoji codes or escape sequences: shown as they are, everywhere."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from tests.trainer.datasets import config_values
from tests.trainer.test_cli import command
from trainer.analysis.compare.table import Grid, comparison_table
from trainer.analysis.report.html import element
from trainer.cli.app import run
from trainer.console import LateProgress, count_progress, make_console, tell, visible
from trainer.logging.progress import ProgressDisplay
from trainer.logging.tables import by_table, evaluation_table, plan_table, result_table
from trainer.run.records import Evaluation
from trainer.sharding.plan import Placement

HOSTILE = ("[/red]", "[bold]x", "[link=http://a.b]", ":smile:", "\x1b[31mred", "a\x07\x9b2J", "\u202egnp", "tab\tstop")
TASK = Evaluation(task="click", kind="binary", samples=10, milestone="10", examples=5, ne=0.5)


def shown(text: str) -> str:
    return visible(text)


def hostile_tables(name: str) -> dict[str, Table]:
    record = TASK.model_copy(update={"task": name})
    by = [record.model_copy(update={"by": name, "value": name})]
    return {
        "plan": plan_table([Placement(name, 1, 2, name, (0,), 8)]),
        "by": by_table(name, by, name),
        "evaluation": evaluation_table([record.model_copy(update={"milestone": name})]),
        "result": result_table([record]),
        "comparison": comparison_table(Grid(name, name, [name, "runs"], [[name, name]])),
    }


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_tables_show_names_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for table in hostile_tables(name).values():
        make_console().print(table)
        printed = capsys.readouterr().out
        assert shown(name) in printed
        assert printed.replace("\n", "").isprintable()


def test_long_work_is_told_of_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with LateProgress("reading") as progress:
        progress(1, 3)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("trainer.console.LATE_SECONDS", 0.0)
        progress(2, 3)
        progress(3, 3)
    assert capsys.readouterr().err == "note: reading: 2 of 3 after 0 s\n"


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_lines_show_names_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    display = ProgressDisplay(True, 0, 10)
    display.print(f"plain {name}")
    tell("warning", f"about {name} and more")
    with count_progress(name, 3) as advance:
        advance(1)
    display.close()
    printed = capsys.readouterr()
    assert f"plain {shown(name)}" in printed.out
    assert printed.err.startswith("warning: about ")
    assert printed.err.count("\n") == 1
    assert (printed.out + printed.err).replace("\n", "").isprintable()


@given(st.text())
def test_what_is_visible_is_stable_and_holds_no_control_character(text: str) -> None:
    found = visible(text)
    assert visible(found) == found
    assert not any((ord(character) < 32 and character != "\n") or 126 < ord(character) < 160 for character in found)
    found.encode()


def test_ordinary_text_is_left_alone() -> None:
    for text in ("naïve 日本 🎉", "a | b [0.1, 0.2] ± 3\N{NO-BREAK SPACE}%", "two\nlines"):
        assert visible(text) == text


def test_a_page_shows_control_characters() -> None:
    tree = element("p", "a\x1b[31m", element("b", "\x00"), "\x07", title="\x1b")
    assert (tree.text, tree[0].text, tree[0].tail, tree.get("title")) == ("a\\x1b[31m", "\\x00", "\\x07", "\\x1b")


def test_a_run_over_hostile_names_ends_with_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns, values of `evaluate.by` and the run's folder, from training to the report."""
    random = np.random.default_rng(3)
    for use, rows in (("train", 256), ("test", 128)):
        (tmp_path / use).mkdir()
        values = random.choice(["[/red]", "\x1b[31mred", ":smile:"], rows)
        columns = {"[id]": random.integers(0, 9, rows), "[/bold]": values, "[click]": random.integers(0, 2, rows)}
        pq.write_table(pa.table(columns), tmp_path / use / "part.parquet")
    values = config_values(tmp_path, run={"dir": str(tmp_path / "[red]run $x_{$")}, train={"samples": 128})
    values |= {
        "features": {"sparse": [{"column": "[id]", "table": "plain"}]},
        "tables": [{"name": "plain", "rows": 9, "dim": 4}],
        "tasks": [{"name": "click", "kind": "binary", "label": "[click]"}],
        "evaluate": {"by": ["[/bold]"], "unit": "[id]"},
    }
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(values))
    code, out, err = command("train", str(config))
    assert (code, err) == (0, "")
    for text in ("by [/bold]", " [/red] │", " \\x1b[31mred │", " :smile: │", "result: NE"):
        assert text in out
    assert "\x1b" not in out
    folder = values["run"]["dir"]
    assert run(["compare", folder, folder, "--out", str(tmp_path / "out")]) == 0
    assert "intervals by [id]" in " ".join(capsys.readouterr().out.split())
    assert run(["report", folder, "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "\x1b" not in page
    assert "\\x1b[31mred" in page


def test_many_values_of_a_column_are_cut_to_the_largest(capsys: pytest.CaptureFixture[str]) -> None:
    records = [TASK.model_copy(update={"by": "author", "value": value, "examples": value}) for value in range(540)]
    make_console().print(by_table("author", records, "evaluations.jsonl"))
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert rows == [str(value) for value in range(539, 519, -1)]
    caption = " ".join(" ".join(lines).split())  # as wide as the table
    assert caption.endswith("520 values with fewer examples are left out: evaluations.jsonl has all 540")
    make_console().print(by_table("author", records[:20], "evaluations.jsonl"))
    assert "left out" not in capsys.readouterr().out


def test_grouped_auc_has_a_column_where_a_record_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print(evaluation_table([TASK]))
    assert "GAUC" not in capsys.readouterr().out
    make_console().print(evaluation_table([TASK, TASK.model_copy(update={"gauc": 0.61234})]))
    printed = capsys.readouterr().out
    assert "GAUC" in printed
    assert "0.6123" in printed


def test_headings_are_written_alike(capsys: pytest.CaptureFixture[str]) -> None:
    points = [(37_888, None), (199_168, None), (300_032, "300k")]
    records = [TASK.model_copy(update={"samples": at, "milestone": text}) for at, text in points]
    make_console().print(result_table(records))
    assert "┃ 37,888 ┃ 199,168 ┃   300k ┃" in capsys.readouterr().out
    for record in records:
        make_console().print(evaluation_table([record]))
    printed = " ".join(capsys.readouterr().out.split())
    for title in ("at 37,888 samples ┏", "at 199,168 samples ┏", "at 300k samples (300,032) ┏"):
        assert f"evaluation {title}" in printed
