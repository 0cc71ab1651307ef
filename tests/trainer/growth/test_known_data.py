"""The ways in which the training data may differ from what its run knows, and the line that each leads to."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.storage.manifest_file import load_manifest, save_manifest
from tests.trainer.days import config_of, write_day
from trainer.config.run_config import Config
from trainer.growth.known_data import known_data
from trainer.run.directory import RunDirectory

ROWS = 130
"""Of each day, in row groups of 60, 60 and 10."""
DAYS = (8, 9, 10)
"""Those that the run knows, in this order, unlike that of the paths."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    for day in DAYS:
        write_day(tmp_path / "log", day, ROWS)
    return tmp_path / "log"


class Run(NamedTuple):
    """A run that has recorded its training data."""

    config: Config
    directory: RunDirectory

    def look(self, accept: bool = False) -> str:
        """What a start says of the data: an error, or its notes; "" where there is nothing to say."""
        run = self.config.run.model_copy(update={"accept_changed_data": accept})
        try:
            data = self.config.data
            now = read_manifest(data.train_source, cache=None, on_bad_file=data.on_bad_file)
            known = known_data(self.config.model_copy(update={"run": run}), self.directory, now)
        except DataError as error:
            return str(error)

        save_manifest(known.manifest, self.directory.manifests["train"])
        accepted = [f"accepted: {name}" for name in known.accepted]
        return "; ".join([*filter(None, [now.waiting_note, known.growth]), *accepted])


def make_run(log: Path, folder: Path, order: str = "chronological", trained: int = 0, **data: str) -> Run:
    """It has recorded the data as it is, and is trained so far."""
    directory = RunDirectory(folder)
    run = Run(config_of(log.parent, log, folder, data={"order": order, **data}, train={"samples": 64}), directory)
    directory.manifests["train"].parent.mkdir(parents=True)
    assert run.look() == ""
    (directory.checkpoints / str(trained)).mkdir(parents=True)
    return run


def day(log: Path, number: int) -> Path:
    return log / f"dt=2022-04-{number}"


def file(log: Path, number: int) -> Path:
    return day(log, number) / "part-0.parquet"


def gone(*numbers: int) -> Callable[[Path], None]:
    def change(log: Path) -> None:
        for number in numbers:
            shutil.rmtree(day(log, number))

    return change


def rewritten(
    number: int, row_group_size: int = 60, rows: int = ROWS, **changes: pa.DataType
) -> Callable[[Path], None]:
    """A day of other bytes; of new types for some columns."""

    def change(log: Path) -> None:
        table = pq.read_table(file(log, number), partitioning=None).slice(0, rows)
        for name, kind in changes.items():
            table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
        pq.write_table(table, file(log, number), row_group_size=row_group_size, compression="gzip")

    return change


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(log: Path) -> None:
        for one in changes:
            one(log)

    return change


def added(number: int, *changes: Callable[[Path], None]) -> Callable[[Path], None]:
    return both(lambda log: write_day(log, number, ROWS), *changes)


def one_column_more(log: Path) -> None:
    table = pq.read_table(file(log, 11), partitioning=None)
    pq.write_table(table.append_column("more", pc.negate(table["age"])), file(log, 11))


def unfinished(log: Path) -> None:
    (day(log, 11) / "_SUCCESS").unlink()


def renamed(log: Path) -> None:
    day(log, 10).rename(day(log, 7))


def late_file(log: Path) -> None:
    shutil.copy(file(log, 9), day(log, 9) / "part-1.parquet")


def everything(log: Path) -> None:
    shutil.rmtree(log)


def all_files(log: Path) -> None:
    for path in log.glob("*/*.parquet"):
        path.unlink()


def all_markers(log: Path) -> None:
    for path in log.glob("*/_SUCCESS"):
        path.unlink()


class Case(NamedTuple):
    """A way in which the data differs."""

    change: Callable[[Path], None]
    line: str
    """The end of what is said; "": nothing."""
    accepting: str | None = None
    """The same with --accept-changed-data; None: it makes no difference."""
    trained: int = 0
    """Samples that the run has been trained for."""


GROWN = "data.train has grown by 130 rows in 1 window: dt=2022-04-11"
REPAIRED = (
    "the contents of dt=2022-04-9/part-0.parquet changed (same number of rows and row groups); restore it, train in "
)
REPAIRED += "another folder, or, if its rows are the same, accept it with --accept-changed-data"
NEEDED = "part-0.parquet is gone, but not all rows of its window have been trained; restore it"
NOT_LATER = "is new, but not later than all that was known; move it into a later window, or remove it"

CASES = {
    "grown": Case(added(11), GROWN),
    "shrunk at the front, trained": Case(gone(8, 9), "", trained=2 * ROWS),
    "shrunk at the front": Case(gone(8), f"dt=2022-04-8/{NEEDED}"),
    "shrunk in the middle": Case(gone(9), f"dt=2022-04-9/{NEEDED}", trained=ROWS),
    "equal rows": Case(rewritten(9), REPAIRED, "accepted: dt=2022-04-9/part-0.parquet"),
    "equal rows, wider type": Case(rewritten(9, click=pa.int32()), REPAIRED, "accepted: dt=2022-04-9/part-0.parquet"),
    "equal rows, and grown": Case(
        both(rewritten(9), added(11)),
        REPAIRED,
        f"{GROWN}; accepted: dt=2022-04-9/part-0.parquet",
    ),
    "equal rows, in other row groups": Case(
        rewritten(9, 50),
        REPAIRED,
        "dt=2022-04-9/part-0.parquet has as many rows and row groups as before, but other numbers of rows in them, so "
        "that rows would change places; write it with the same row groups, restore it, or train in another folder",
    ),
    "other rows": Case(
        rewritten(9, rows=61),
        "dt=2022-04-9/part-0.parquet has 61 rows in 2 row groups, had 130 in 3; restore it, or train in another folder",
    ),
    "schema widened": Case(added(11, one_column_more), GROWN),
    "type widened": Case(added(11, rewritten(11, user=pa.int32(), click=pa.int64())), GROWN),
    "empty window": Case(added(11, rewritten(11, rows=0)), ""),
    "window without _SUCCESS": Case(added(11, unfinished), "1 window waits for '_SUCCESS': dt=2022-04-11"),
    "reordered names": Case(renamed, f"dt=2022-04-7/part-0.parquet {NOT_LATER}"),
    "late file in an old window": Case(late_file, f"dt=2022-04-9/part-1.parquet {NOT_LATER}"),
    "all gone, the folder too": Case(everything, "log: no such file or folder", trained=3 * ROWS),
    "all gone, but the folders": Case(
        all_files, "log: no *.parquet file in it; name the folder that holds them", trained=3 * ROWS
    ),
    "all unfinished": Case(all_markers, "none of its 3 folders holds '_SUCCESS' yet, as data.complete asks"),
}


@pytest.mark.parametrize("accept", [False, True], ids=["", "accepting"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_log_that_grows(log: Path, tmp_path: Path, case: Case, accept: bool) -> None:
    run = make_run(log, tmp_path / "run", trained=case.trained)
    case.change(log)
    line = case.line if case.accepting is None or not accept else case.accepting
    said = run.look(accept)
    assert said.endswith(line) if line else said == ""


def test_a_window_that_has_come_is_known_from_then_on(log: Path, tmp_path: Path) -> None:
    run = make_run(log, tmp_path / "run")
    for number in (11, 12):
        added(number)(log)
        assert run.look().endswith(f"dt=2022-04-{number}")
        assert run.look() == ""


SHUFFLED = {
    "grown": Case(added(11), "dt=2022-04-11/part-0.parquet is new; restore it, or train in another folder"),
    "shrunk": Case(
        gone(8), "dt=2022-04-8/part-0.parquet is gone; restore it, or train in another folder", trained=3 * ROWS
    ),
    "equal rows": CASES["equal rows"],
    "equal rows, in other row groups": CASES["equal rows, in other row groups"],
    "equal rows, and grown": Case(
        both(rewritten(9), added(11)),
        "dt=2022-04-11/part-0.parquet is new; restore it, or train in another folder",
    ),
    "other rows": CASES["other rows"],
}


@pytest.mark.parametrize("accept", [False, True], ids=["", "accepting"])
@pytest.mark.parametrize("case", SHUFFLED.values(), ids=SHUFFLED.keys())
def test_data_in_another_order(log: Path, tmp_path: Path, case: Case, accept: bool) -> None:
    run = make_run(log, tmp_path / "run", "shuffled", case.trained)
    case.change(log)
    line = case.line if case.accepting is None or not accept else case.accepting
    assert run.look(accept).endswith(line)


@pytest.mark.parametrize("order", ["chronological", "shuffled"])
def test_what_was_accepted_is_the_runs_from_then_on(log: Path, tmp_path: Path, order: str) -> None:
    run = make_run(log, tmp_path / "run", order)
    recorded = run.directory.manifests["train"]
    first = load_manifest(recorded)
    rewritten(9, click=pa.int32())(log)
    assert run.look(accept=True) == "accepted: dt=2022-04-9/part-0.parquet"

    second = load_manifest(recorded)
    assert second.fingerprints == (read_manifest(str(log), cache=None).fingerprint, first.fingerprint)
    assert second.first_row.tolist() == first.first_row.tolist()
    kinds = [str(second.schema_of(group).field("click").type) for group in (0, 3, len(second.rows) - 1)]
    assert sorted(kinds) == ["int32", "int8", "int8"]
    for accept in (False, True):
        assert run.look(accept) == "", "nothing is left to be accepted"
        assert load_manifest(recorded).fingerprints == second.fingerprints

    rewritten(8)(log)
    assert run.look(accept=True) == "accepted: dt=2022-04-8/part-0.parquet"
    assert load_manifest(recorded).fingerprints[1:] == (first.fingerprint, second.fingerprint)


def test_a_log_that_has_grown_may_be_repeated(log: Path, tmp_path: Path) -> None:
    run = make_run(log, tmp_path / "run")
    added(11)(log)
    assert run.look() == GROWN
    known = load_manifest(run.directory.manifests["train"])
    data = run.config.data.model_copy(update={"repeat": True})
    repeating = Run(run.config.model_copy(update={"data": data}), run.directory)
    assert repeating.look() == ""
    assert load_manifest(run.directory.manifests["train"]).files == known.files


@pytest.mark.parametrize("order", ["chronological", "shuffled"])
def test_a_file_that_cannot_be_read_is_left_out_all_the_same(log: Path, tmp_path: Path, order: str) -> None:
    run = make_run(log, tmp_path / "run", order, on_bad_file="skip")
    known = load_manifest(run.directory.manifests["train"])
    file(log, 8).write_bytes(file(log, 8).read_bytes()[:-9])
    assert run.look() == ""
    rewritten(9)(log)
    assert run.look().endswith(REPAIRED)
    assert run.look(accept=True) == "accepted: dt=2022-04-9/part-0.parquet"
    assert load_manifest(run.directory.manifests["train"]).files == known.files
    assert run.look() == ""


def test_a_file_that_was_left_out_is_new_to_a_run_that_wants_all(log: Path, tmp_path: Path) -> None:
    whole = file(log, 8).read_bytes()
    file(log, 8).write_bytes(whole[:-9])
    run = make_run(log, tmp_path / "run", "shuffled", on_bad_file="skip")
    file(log, 8).write_bytes(whole)
    assert run.look() == ""
    data = run.config.data.model_copy(update={"on_bad_file": "fail"})
    wants_all = Run(run.config.model_copy(update={"data": data}), run.directory)
    assert "dt=2022-04-8/part-0.parquet is new" in wants_all.look()
