"""Audits of runs that were killed and resumed, against a slow account of every row; and of tampered ones."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer.analysis.audit.intervals
from data.discovery.dataset import read_manifest
from data.discovery.source import source_of
from data.hashing import Int64
from data.manifest import Manifest
from data.order import Order, group_rows, order
from data.pipeline.account import SkippedRows
from data.pipeline.row_groups import tasks_of_epoch
from data.reading import Reading
from data.storage.manifest_file import save_manifest
from data.stream import stream
from data.trace import TraceWriter, read_trace
from tests.jsonl import append_lines
from tests.trainer.datasets import config_values, write_dataset
from trainer.analysis.audit.audit import Audit, EpochAccount, audit_run
from trainer.analysis.audit.intervals import expand, intervals_of_epoch
from trainer.cli.app import run
from trainer.config.load import parse_config
from trainer.datasets import train_reading
from trainer.run.directory import RunDirectory
from trainer.run.starts import StartLog, read_starts

exact = settings(max_examples=60)
Unread = frozenset[int]
"""Row groups that a start cannot read."""
TIME = "2026-11-24T11:00:00+00:00"
AT = f'"time": "{TIME}", "samples": 16'
"""What every event has, within a line of JSON."""


def make_manifest(sizes: list[int], left_out: tuple[tuple[str, str], ...] = ()) -> Manifest:
    """Row groups of the given sizes, two to a file, two files to a day."""
    group = np.arange(len(sizes))
    files = tuple(f"day={number // 2:02}/part-{number:02}.parquet" for number in range((len(sizes) + 1) // 2))
    return Manifest(
        source=source_of("/data/train"),
        files=files,
        file=group // 2,
        group=group % 2,
        rows=np.array(sizes, np.int64),
        bytes=np.array(sizes, np.int64),
        schema=pa.schema([("user", pa.int64())]),
        fingerprint="f00d",
        digests=("",) * len(files),
        left_out=left_out,
        root="/data/train",
    )


@dataclass
class Step:
    """What one batch did."""

    samples: int
    trained: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, number of the row in the dataset)"""
    unreadable: list[tuple[int, int]] = field(default_factory=list)
    bad: list[tuple[int, int]] = field(default_factory=list)
    handed_out: int = 0
    skipped: bool = False


class SimulatedRun:
    """Writes what a run writes, as `data.stream` reads, and keeps what the weights of every checkpoint have seen."""

    def __init__(self, folder: Path, manifest: Manifest, *, trace: bool = True, samples: int, **data: Any) -> None:
        values = config_values(
            folder, data={"repeat": True, **data}, run={"dir": str(folder), "trace": trace}, train={"samples": samples}
        )
        self.run = RunDirectory(folder)
        for path in (self.run.trace, self.run.manifests["train"].parent):
            path.mkdir(parents=True)
        save_manifest(manifest, self.run.manifests["train"])
        self.run.config_file.write_text(tomli_w.dumps(values))
        self.reading = train_reading(parse_config(values, "test"), manifest)
        self.traced = trace
        self.seen: dict[int, list[Step]] = {0: []}
        """By the samples of each checkpoint that is left."""
        self.writers: dict[int, int] = {}
        """The start that wrote each checkpoint."""
        self.newest = 0

    def start(
        self,
        at: int,
        ranks: int,
        batches: int,
        saves: Set[int] = frozenset(),
        *,
        noted: bool = True,
        skipped: Set[int] = frozenset(),
        unread: Unread = frozenset(),
        bad: Set[int] = frozenset(),
    ) -> None:
        """Trains some batches from the checkpoint `at`, saves after some of them (counted from 1), and is killed."""
        batch = self.reading.global_batch_size
        log = StartLog(self.run.segments)
        number = log.start(at, ranks, self.reading.manifest.fingerprint, self.writers.get(at), trace=self.traced)
        self.seen = {samples: steps for samples, steps in self.seen.items() if samples <= at}
        self.newest, steps = at, list(self.seen[at])
        self._record_unreadable(number, at, batches, unread)
        self._record_bad_values(number, at, batches, bad)
        begins = range(at, at + batches * batch, batch)
        rows = {begin: self._rows(begin) for begin in begins}
        for count, begin in enumerate(begins, start=1):
            steps.append(self._step(begin, rows[begin], count in skipped, unread, bad))
            if count in skipped:
                self.event(event="skipped_batch", segment=number, samples=begin)
            if count in saves:
                self.newest = begin + batch
                self.writers[self.newest] = number
                self.seen[self.newest] = list(steps)
                if noted or count < max(saves):
                    log.reached(self.newest)
        for rank in range(ranks if self.traced else 0):
            self._write_trace(number, rank, ranks, rows, unread, bad)

    def _rows(self, begin: int) -> list[list[tuple[int, int, int]]]:
        """(epoch, group, row in the dataset) of the batch, lane by lane; straight from the tasks."""
        epoch, number = divmod(begin // self.reading.global_batch_size, self.reading.batches_per_epoch)
        lanes: list[list[tuple[int, int, int]]] = [[] for _ in range(self.reading.lanes)]
        for task in tasks_of_epoch(self.reading, range(self.reading.lanes), epoch, number):
            size = int(self.reading.manifest.rows[task.group])
            places = group_rows(task.group, size, name=self.reading.order, seed=self.reading.seed, epoch=epoch)
            chosen = np.arange(size) if places is None else places
            first = int(self.reading.manifest.first_row[task.group])
            lanes[task.lane] += [(epoch, task.group, first + int(row)) for row in chosen[task.start : task.stop]]
        return [lane[: self.reading.rows_per_lane] for lane in lanes]

    def _step(
        self, begin: int, lanes: list[list[tuple[int, int, int]]], skipped: bool, unread: Unread, bad: Set[int]
    ) -> Step:
        step = Step(begin, skipped=skipped)
        for epoch, group, row in (entry for lane in lanes for entry in lane):
            step.handed_out += group not in unread and row not in bad
            if not skipped:
                left_out = step.unreadable if group in unread else step.bad
                (left_out if group in unread or row in bad else step.trained).append((epoch, row))
        return step

    def _record_unreadable(self, number: int, at: int, batches: int, unread: Unread) -> None:
        """As the decoding threads do, which are ahead of the batches: here up to the end of the epoch."""
        first, last = (at // self.reading.global_batch_size + offset for offset in (0, max(batches - 1, 0)))
        per_epoch = self.reading.batches_per_epoch
        for epoch in range(first // per_epoch, last // per_epoch + 1):
            skip = first % per_epoch if epoch == first // per_epoch else 0
            for task in tasks_of_epoch(self.reading, range(self.reading.lanes), epoch, skip):
                if task.group in unread:
                    self.event(event="skipped_rows", segment=number, **self.names(task.group), epoch=epoch,
                                start=task.start, stop=task.stop, reason="gone", samples=at)  # fmt: skip

    def _record_bad_values(self, number: int, at: int, batches: int, bad: Set[int]) -> None:
        """Up to the end of the epoch, as above; the two halves of a row group's bad rows in two events."""
        first, last = (at // self.reading.global_batch_size + offset for offset in (0, max(batches - 1, 0)))
        per_epoch, manifest = self.reading.batches_per_epoch, self.reading.manifest
        for epoch in range(first // per_epoch, last // per_epoch + 1):
            for group, begin in enumerate(manifest.first_row.tolist()):
                rows = sorted(row - begin for row in bad if begin <= row < begin + manifest.rows[group])
                for some in (rows[::2], rows[1::2]):
                    ranges = [[row, row + 1] for row in some]
                    event = {"event": "bad_values", "column": "x", "reason": "y", "rows": len(some), "ranges": ranges}
                    if some:
                        self.event(segment=number, samples=at, epoch=epoch, **event, **self.names(group))

    def names(self, group: int) -> dict[str, Any]:
        manifest = self.reading.manifest
        return {"file": manifest.files[manifest.file[group]], "row_group": int(manifest.group[group])}

    def event(self, **record: Any) -> None:
        append_lines(self.run.events, [{"time": TIME, **record}])

    def _write_trace(
        self,
        number: int,
        rank: int,
        ranks: int,
        rows: dict[int, list[list[tuple[int, int, int]]]],
        unread: Unread,
        bad: Set[int],
    ) -> None:
        share = self.reading.lanes // ranks
        writer = TraceWriter(self.run.trace_file(number, rank))
        for begin, lanes in rows.items():
            own = [
                row
                for lane in lanes[rank * share : (rank + 1) * share]
                for _, group, row in lane
                if group not in unread and row not in bad
            ]
            writer.write(begin, np.array(own, np.int64))
        writer.close()


# ---- against a slow account


@exact
@given(st.data())
def test_the_audit_equals_a_slow_account(draw: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        simulated = draw_run(Path(folder) / "run", draw)
        audit = audit_run(simulated.run.path)
        assert audit.promises_broken == ()
        assert by_epoch(audit) == slow_account(simulated)


def draw_run(folder: Path, draw: st.DataObject) -> SimulatedRun:
    lanes, share = draw.draw(st.sampled_from([1, 2, 4, 6])), draw.draw(st.integers(1, 5))
    batch = lanes * share
    sizes = draw.draw(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(lambda found: sum(found) >= batch))
    epochs = draw.draw(st.integers(1, 3))
    simulated = SimulatedRun(
        folder,
        make_manifest(sizes),
        trace=draw.draw(st.booleans()),
        samples=draw.draw(st.integers(1, epochs * sum(sizes))),
        global_batch_size=batch,
        lanes=lanes,
        order=draw.draw(st.sampled_from(["shuffled", "chronological", "stored"])),
    )
    for _ in range(draw.draw(st.integers(1, 5))):
        at = draw.draw(st.sampled_from(sorted(simulated.seen, reverse=True)))
        count = draw.draw(st.integers(0, planned_batches(simulated) - at // batch))
        some = st.sets(st.integers(1, count)) if count else st.just(set())
        simulated.start(
            at,
            draw.draw(st.sampled_from([ranks for ranks in range(1, lanes + 1) if lanes % ranks == 0])),
            count,
            draw.draw(some),
            noted=draw.draw(st.booleans()),
            skipped=draw.draw(some | st.just(set())),
            unread=draw.draw(st.frozensets(st.integers(0, len(sizes) - 1), max_size=2)),
            bad=draw.draw(st.frozensets(st.integers(0, sum(sizes) - 1), max_size=9)),
        )
    if simulated.newest > read_starts(simulated.run.segments)[-1].reached:  # is noted as soon as the run goes on
        simulated.start(simulated.newest, 1, 0)
    return simulated


def planned_batches(simulated: SimulatedRun) -> int:
    return -(-simulated.run.read_config().train.samples // simulated.reading.global_batch_size)


def by_epoch(audit: Audit) -> dict[int, EpochAccount]:
    """One account for each epoch, after a look at how they are folded."""
    for one, other in zip(audit.epochs, audit.epochs[1:], strict=False):
        assert other.first_epoch == one.last_epoch + 1
        assert replace(one, first_epoch=0, last_epoch=0) != replace(other, first_epoch=0, last_epoch=0)
    return {
        epoch: replace(account, first_epoch=epoch, last_epoch=epoch)
        for account in audit.epochs
        for epoch in range(account.first_epoch, account.last_epoch + 1)
    }


def slow_account(simulated: SimulatedRun) -> dict[int, EpochAccount]:
    reading, batch = simulated.reading, simulated.reading.global_batch_size
    steps = simulated.seen[simulated.newest]
    trained = Counter(row for step in steps for row in step.trained)
    unreadable = Counter(epoch for step in steps for epoch, _ in step.unreadable)
    bad = Counter(epoch for step in steps for epoch, _ in step.bad)
    expected = {}
    for epoch in range(-(-planned_batches(simulated) // reading.batches_per_epoch)):
        begin = epoch * reading.batches_per_epoch
        times = [trained[epoch, row] for row in range(reading.manifest.num_rows)]
        own = [step for step in steps if begin <= step.samples // batch < begin + reading.batches_per_epoch]
        planned = min(planned_batches(simulated) - begin, reading.batches_per_epoch)
        expected[epoch] = EpochAccount(
            first_epoch=epoch,
            last_epoch=epoch,
            rows=len(times),
            trained_once=times.count(1),
            trained_more=sum(count > 1 for count in times),
            beyond_end=(reading.batches_per_epoch - planned) * batch,
            not_reached=(planned - len(own)) * batch,
            incomplete_batch=len(times) - reading.batches_per_epoch * batch,
            skipped_batch=sum(step.skipped for step in own) * batch,
            unreadable=unreadable[epoch],
            bad_value=bad[epoch],
            lost=0,
            traced=sum(step.handed_out for step in own) if simulated.traced and own else None,
        )
        assert expected[epoch].unexplained == expected[epoch].trained_more == 0
    return expected


def pairs(columns: tuple[Int64, Int64]) -> set[tuple[int, int]]:
    return set(zip(columns[0].tolist(), columns[1].tolist(), strict=True))


@exact
@given(st.data())
def test_a_selection_of_intervals_is_one_of_their_rows(draw: st.DataObject) -> None:
    """Of whole batches, and of a row group; each row keeps its batch."""
    sizes = draw.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda found: sum(found) >= 4))
    block_rows = draw.draw(st.sampled_from([None, 1, 2, 4]))
    columns: Any = None  # nothing is read
    usual = Reading(make_manifest(sizes), columns, 4, 2, "shuffled", 17, block_rows=block_rows)
    layout = intervals_of_epoch(usual, 1)
    every = pairs(expand(usual, 1, layout))
    assert sorted(row for _, row in every) == list(range(sum(sizes)))
    begin, end = sorted(draw.draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
    part = layout.in_lane(begin * 2, end * 2)
    rows = pairs(expand(usual, 1, part))
    assert rows == {(batch, row) for batch, row in every if begin <= batch < end}
    group = draw.draw(st.integers(0, len(sizes) - 1))
    start, stop = sorted(draw.draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
    first = sum(sizes[:group])
    places = group_rows(group, sizes[group], name="shuffled", seed=17, epoch=1, block_rows=block_rows)
    assert places is not None
    own = {first + int(row) for row in places[start:stop]}
    chosen = pairs(expand(usual, 1, part.in_group(group, start, stop)))
    assert chosen == {(batch, row) for batch, row in rows if row in own}


# ---- one run, tampered with

SIZES = [13, 7, 0, 20, 9, 30, 5, 16]
"""100 rows: 6 batches of 16 an epoch, and 4 rows that fill none."""
USUAL: dict[str, Any] = {"global_batch_size": 16, "lanes": 4}


@pytest.fixture
def killed(tmp_path: Path) -> SimulatedRun:
    """Two passes in three starts on 2, 4 and 1 ranks, the second of which goes back."""
    simulated = SimulatedRun(tmp_path / "run", make_manifest(SIZES), samples=192, **USUAL)
    simulated.start(0, 2, 9, {3, 7})
    simulated.start(48, 4, 4, {2})
    simulated.start(80, 1, 7, {7})
    return simulated


def command(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = run(["audit", str(path), *options])
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def objects(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]], list[str]]:
    """Exit code, accounts and broken promises."""
    code, out = command(path, capsys, "--json")
    *accounts, last = map(json.loads, out.splitlines())
    assert set(last) == {"promises_broken", "files_left_out"}
    return code, accounts, last["promises_broken"]


def test_a_whole_run(killed: SimulatedRun, capsys: pytest.CaptureFixture[str]) -> None:
    code, (account,), broken = objects(killed.run.path, capsys)
    assert (code, broken) == (0, [])
    nothing = {
        "trained_more",
        "beyond_end",
        "not_reached",
        "skipped_batch",
        "unreadable",
        "bad_value",
        "lost",
        "unexplained",
    }
    assert account == dict.fromkeys(nothing, 0) | {
        "first_epoch": 0,
        "last_epoch": 1,
        "rows": 100,
        "trained_once": 96,
        "never": 4,
        "incomplete_batch": 4,
        "traced": 96,
    }
    code, out = command(killed.run.path, capsys)
    assert code == 0
    for text in ("0–1", "96", "do not fill a last global batch", "96 rows"):
        assert text in out
    assert "promise broken" not in out


def change_records(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    change(records)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def put(number: int, **values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda records: records[number].update(values)


TAMPERED_STARTS: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], list[str]]] = {
    "gap": (
        put(1, to=64),
        ["samples 64 to 80: no start accounts for them, but a later one goes on from there"],
    ),
    "no first start": (
        lambda records: records[0].update({"from": 16}),
        ["samples 0 to 16: no start accounts for them, but a later one goes on from there"],
    ),
    "foreign fingerprint": (
        put(1, fingerprint="beef"),
        ["start 1 trained on other data: fingerprint 'beef', the run's dataset has 'f00d'"],
    ),
    "half a batch": (put(0, to=120), ["start 0: to = 120 is no multiple of the batch of 16"]),
    "three ranks": (put(0, world_size=3), ["start 0: its 3 ranks do not divide the 4 lanes"]),
    "too far": (put(2, to=208), ["trained to 208 samples, but train.samples ends the run at 192"]),
}


@pytest.mark.parametrize("case", TAMPERED_STARTS)
def test_tampered_starts(killed: SimulatedRun, capsys: pytest.CaptureFixture[str], case: str) -> None:
    change, expected = TAMPERED_STARTS[case]
    for file in killed.run.trace.iterdir():
        file.unlink()
    killed.run.segments.write_text(killed.run.segments.read_text().replace('"trace":true', '"trace":false'))
    change_records(killed.run.segments, change)
    code, accounts, broken = objects(killed.run.path, capsys)
    assert (code, broken) == (1, expected)
    assert sum(account["lost"] for account in accounts) == (16 if "samples" in expected[0][:7] else 0)
    assert {account["traced"] for account in accounts} == {None}
    assert min(value for account in accounts for value in account.values() if value is not None) == 0
    code, out = command(killed.run.path, capsys)
    assert code == 1
    assert f"promise broken: {expected[0]}" in out
    assert "no trace" in out


Rows = list[tuple[int, int]]


def change_trace(simulated: SimulatedRun, segment: int, rank: int, change: Callable[[Rows], Rows]) -> None:
    """Rewrites a trace as (samples, row) pairs."""
    path = simulated.run.trace_file(segment, rank)
    samples, rows = read_trace(path)
    changed = change(list(zip(samples.tolist(), rows.tolist(), strict=True)))
    writer = TraceWriter(path)
    for begin in sorted({begin for begin, _ in changed}):
        writer.write(begin, np.array([row for samples, row in changed if samples == begin], np.int64))
    writer.close()


def first_of(simulated: SimulatedRun, samples: int) -> str:
    """Name of the row that rank 0 hands out first in a batch of the last start."""
    found, rows = read_trace(simulated.run.trace_file(2, 0))
    return row_name(simulated.reading.manifest, int(rows[found == samples][0]))


def row_name(manifest: Manifest, row: int) -> str:
    names = [(group, index) for group, size in enumerate(manifest.rows) for index in range(size)]
    group, index = names[row]
    return f"row {index} of {manifest.describe(group)}"


def place(rows: Rows, samples: int) -> int:
    return [begin for begin, _ in rows].index(samples)


def without(rows: Rows, index: int) -> Rows:
    return rows[:index] + rows[index + 1 :]


def swapped(rows: Rows, one: int, other: int) -> Rows:
    rows = rows.copy()
    rows[one], rows[other] = (rows[one][0], rows[other][1]), (rows[other][0], rows[one][1])
    return rows


def test_a_row_dropped_from_the_trace(killed: SimulatedRun, capsys: pytest.CaptureFixture[str]) -> None:
    name = first_of(killed, 128)
    change_trace(killed, 2, 0, lambda rows: without(rows, place(rows, 128)))
    code, accounts, broken = objects(killed.run.path, capsys)
    message = f"1 row missing from the trace; the first is {name} (due at 128 samples)"
    assert (code, broken) == (1, [f"epoch 1: {message}"])
    assert [account["traced"] for account in accounts] == [96, 95]


def test_a_row_repeated_in_the_trace(killed: SimulatedRun, capsys: pytest.CaptureFixture[str]) -> None:
    name = first_of(killed, 128)
    change_trace(killed, 2, 0, lambda rows: [*rows, (128, rows[place(rows, 128)][1])])
    code, _, broken = objects(killed.run.path, capsys)
    assert code == 1
    assert broken == [
        f"epoch 1: 1 row handed out more than once; the first is {name} (handed out at 128 samples, due at 128 samples)"
    ]


def test_a_row_repeated_instead_of_another(killed: SimulatedRun, capsys: pytest.CaptureFixture[str]) -> None:
    missing = first_of(killed, 144)

    def repeat(rows: Rows) -> Rows:
        rows[place(rows, 144)] = (144, rows[place(rows, 128)][1])
        return rows

    change_trace(killed, 2, 0, repeat)
    code, _, broken = objects(killed.run.path, capsys)
    assert code == 1
    assert len(broken) == 2
    assert broken[0].startswith("epoch 1: 1 row handed out more than once; the first is row")
    assert broken[1] == (f"epoch 1: 1 row missing from the trace; the first is {missing} (due at 144 samples)")


def test_rows_in_another_batch(killed: SimulatedRun, capsys: pytest.CaptureFixture[str]) -> None:
    names = {first_of(killed, 128): 128, first_of(killed, 144): 144}
    change_trace(killed, 2, 0, lambda rows: swapped(rows, place(rows, 128), place(rows, 144)))
    code, _, (message,) = objects(killed.run.path, capsys)
    assert code == 1
    start = "epoch 1: 2 rows handed out in another batch than the order says; the first is "
    told = {
        f"{start}{name} (handed out at {272 - due} samples, due at {due} samples)": name for name, due in names.items()
    }
    assert message in told


def test_a_row_that_the_order_drops(killed: SimulatedRun, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, used = killed.reading.manifest, {row for step in killed.seen[192] for row in step.trained}
    spare = next(row for row in range(100) if (1, row) not in used)
    change_trace(killed, 2, 0, lambda rows: [*rows, (128, spare), (128, 1000)])
    code, _, broken = objects(killed.run.path, capsys)
    assert (code, broken) == (
        1,
        [
            "epoch 1: the trace holds 1 row with numbers that the dataset does not have",
            "epoch 1: 1 row handed out that the order leaves out; "
            f"the first is {row_name(manifest, spare)} (handed out at 128 samples)",
        ],
    )


def test_what_was_rolled_back_may_be_anything(killed: SimulatedRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Only samples 0 to 48 survive of the first start."""
    change_trace(killed, 0, 1, lambda rows: [(samples, 0 if samples >= 48 else row) for samples, row in rows])
    assert objects(killed.run.path, capsys)[0::2] == (0, [])
    change_trace(killed, 0, 1, lambda rows: [(samples, 0 if samples >= 32 else row) for samples, row in rows])
    assert objects(killed.run.path, capsys)[0] == 1


@pytest.mark.parametrize(("rank", "names"), [({3}, ["3"]), ({0, 1, 2, 3}, ["0", "1", "2", "3"])])
def test_a_missing_trace(
    killed: SimulatedRun, capsys: pytest.CaptureFixture[str], rank: set[int], names: list[str]
) -> None:
    for missing in rank:
        killed.run.trace_file(1, missing).unlink()
    code, accounts, broken = objects(killed.run.path, capsys)
    files = ", ".join(f"segment-1.rank-{name}.arrow" for name in names)
    assert (code, broken) == (1, [f"start 1: its trace lacks {files}"])
    assert [account["traced"] for account in accounts] == [64, 96]  # the rest is compared all the same


def test_a_trace_that_was_switched_off_later(killed: SimulatedRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Each start is held to what was asked of it."""
    *lines, last = killed.run.segments.read_text().splitlines(keepends=True)
    killed.run.segments.write_text("".join([*lines, last.replace('"trace":true', '"trace":false')]))
    killed.run.trace_file(2, 0).unlink()
    code, accounts, broken = objects(killed.run.path, capsys)
    assert (code, broken) == (0, [])
    assert [account["traced"] for account in accounts] == [80, None]
    killed.run.trace_file(1, 2).unlink()
    assert objects(killed.run.path, capsys)[0::2] == (1, ["start 1: its trace lacks segment-1.rank-2.arrow"])


# ---- what is accounted for


def test_a_skipped_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated = SimulatedRun(tmp_path / "run", make_manifest(SIZES), samples=192, **USUAL)
    simulated.start(0, 2, 6, {4}, skipped={2, 5})  # the fifth does not survive
    simulated.start(64, 2, 8, {8})
    code, accounts, broken = objects(simulated.run.path, capsys)
    assert (code, broken) == (0, [])
    assert [account["skipped_batch"] for account in accounts] == [16, 0]
    assert [account["trained_once"] for account in accounts] == [80, 96]
    assert [account["traced"] for account in accounts] == [96, 96]
    assert "batch skipped: non-finite" in command(simulated.run.path, capsys)[1]
    simulated.run.events.unlink()
    assert objects(simulated.run.path, capsys)[0] == 0  # without the event nothing tells that it was not trained


def test_unreadable_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated = SimulatedRun(tmp_path / "run", make_manifest(SIZES), samples=192, **USUAL)
    simulated.start(0, 2, 12, {6, 12}, unread=frozenset({5}))
    code, accounts, broken = objects(simulated.run.path, capsys)
    assert (code, broken) == (0, [])
    lost = sum(account["unreadable"] * (1 + account["last_epoch"] - account["first_epoch"]) for account in accounts)
    assert lost == sum(len(step.unreadable) for step in simulated.seen[192])
    assert 48 <= lost <= 60
    assert "file unreadable" in command(simulated.run.path, capsys)[1]
    simulated.run.events.unlink()
    code, _, broken = objects(simulated.run.path, capsys)
    assert code == 1
    assert [message[:8] for message in broken] == ["epoch 0:", "epoch 1:"]
    assert all("rows missing from the trace" in message for message in broken)


def test_one_special_epoch_among_many(tmp_path: Path) -> None:
    """Without a trace, epochs that are alike are counted once."""
    simulated = SimulatedRun(tmp_path / "run", make_manifest(SIZES), trace=False, samples=96 * 9, **USUAL)
    simulated.start(0, 2, 54, {54}, skipped={6 * 2 + 1})
    names = simulated.names(3)
    simulated.event(event="skipped_rows", segment=0, **names, epoch=6, start=0, stop=5, reason="gone", samples=0)
    audit = audit_run(simulated.run.path)
    assert audit.promises_broken == ()
    found = [(account.first_epoch, account.last_epoch, account.trained_once) for account in audit.epochs]
    unreadable = audit.epochs[3].unreadable
    assert found == [(0, 1, 96), (2, 2, 80), (3, 5, 96), (6, 6, 96 - unreadable), (7, 8, 96)]
    assert 1 <= unreadable <= 5


def test_a_run_under_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight epochs to go, the last of them in part; nothing is known to be reached."""
    simulated = SimulatedRun(tmp_path / "run", make_manifest(SIZES), samples=96 * 7 + 20, **USUAL)
    simulated.start(0, 2, 3)
    code, (whole, last), broken = objects(simulated.run.path, capsys)
    assert (code, broken) == (0, [])
    assert (whole["first_epoch"], whole["last_epoch"], whole["not_reached"], whole["never"]) == (0, 6, 96, 100)
    assert (last["not_reached"], last["beyond_end"], last["traced"]) == (32, 64, None)
    out = command(simulated.run.path, capsys)[1]
    assert "0–6" in out
    assert "beyond train.samples" in out
    assert "no trace" not in out


def test_files_left_out_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make_manifest(SIZES, left_out=(("day=07/a.parquet", "no [footer]"),))
    simulated = SimulatedRun(tmp_path / "run", manifest, samples=96, **USUAL)
    simulated.start(0, 2, 6, {6})
    code, out = command(simulated.run.path, capsys, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["files_left_out"] == [{"file": "day=07/a.parquet", "reason": "no [footer]"}]
    assert "could not be read: day=07/a.parquet (no [footer])" in command(simulated.run.path, capsys)[1]


def test_an_order_that_repeats_a_row_group(
    killed: SimulatedRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise that the order itself makes is checked too."""

    def broken_order(rows: Int64, window: Int64, **options: Any) -> Order:
        layout = order(rows, window, **options)
        return replace(layout, group=np.where(layout.group == 0, 3, layout.group))  # 13 rows of group 3 for group 0

    monkeypatch.setattr(trainer.analysis.audit.intervals, "order", broken_order)
    code, accounts, broken = objects(killed.run.path, capsys)
    assert code == 1
    assert "rows were trained more than once" in broken[0]
    assert "rows were never trained, and nothing explains it" in broken[1]
    assert accounts[0]["trained_more"] > 0
    assert accounts[0]["unexplained"] > 0


# ---- size


def test_a_large_run_is_a_matter_of_row_groups(tmp_path: Path) -> None:
    """100,000 row groups of 10 million rows, 2,000 passes: nothing may be of the size of the rows or the passes."""
    groups, rows, epochs = 100_000, 10**7, 2_000
    manifest = replace(
        make_manifest([rows]),
        file=np.zeros(groups, np.int64),
        group=np.arange(groups),
        rows=np.full(groups, rows),
        bytes=np.full(groups, rows),
    )
    batch = 1 << 20
    samples = epochs * (groups * rows // batch) * batch
    simulated = SimulatedRun(
        tmp_path / "run", manifest, trace=False, samples=samples, global_batch_size=batch, lanes=64
    )
    log = StartLog(simulated.run.segments)
    begin = 0
    for part in range(1, 5):
        log.start(begin, 64, manifest.fingerprint, part - 2 if begin else None, trace=False)
        begin = samples // 5 * part // batch * batch
        log.reached(begin)
    audit = audit_run(simulated.run.path)
    assert audit.promises_broken == ()
    assert audit.epochs[-1].last_epoch == epochs - 1
    dropped = groups * rows % batch
    assert audit.epochs[0].trained_once == groups * rows - dropped
    assert sum((entry.last_epoch - entry.first_epoch + 1) * entry.trained_once for entry in audit.epochs) == begin


# ---- damage


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "events.jsonl: line 1 is not an event (Expecting value"),
        ("[]", "events.jsonl: line 1 is not an event (Input should be an object"),
        ("{}", "events.jsonl: line 1 is not an event (samples: Field required)"),
        (f'{{"event": "skipped_batch", {AT}}}', "line 1 is not an event (segment: Field required)"),
        ('{"event": "skipped_batch", "segment": 0, "samples": "1"}', "(samples: Input should be a valid integer"),
        (
            f'{{"event": "skipped_rows", {AT}, "segment": 0, "epoch": 0, "file": "x", "row_group": 1, "start": 0, '
            '"stop": 1}',
            "line 1 names rows 0 to 1 of row group 1 of 'x', which the dataset does not have",
        ),
        (
            f'{{"event": "skipped_rows", {AT}, "segment": 0, "epoch": 0, "file": "day=00/part-00.parquet", '
            '"row_group": 1, "start": 0, "stop": 8}',
            "line 1 names rows 0 to 8 of row group 1 of 'day=00/part-00.parquet', which the dataset does not have",
        ),
    ],
)
def test_damaged_events(killed: SimulatedRun, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    killed.run.events.write_text(line + "\n")
    assert_refused(killed.run.path, capsys, message)


def test_other_events_and_a_torn_last_line_are_passed_over(killed: SimulatedRun) -> None:
    killed.run.events.write_text(f'{{"event": "checkpoint", {AT}, "segment": 0}}\n{{"event": "skipped_b')
    assert audit_run(killed.run.path).promises_broken == ()


def assert_refused(path: Path, capsys: pytest.CaptureFixture[str], message: str) -> None:
    assert run(["audit", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_folders_that_cannot_be_audited(
    killed: SimulatedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(tmp_path / "nowhere", capsys, "no run here (no config.toml)")
    killed.run.trace_file(2, 0).write_bytes(b"no trace" * 10)
    assert objects(killed.run.path, capsys)[0] == 1
    killed.run.segments.unlink()
    assert_refused(killed.run.path, capsys, "segments.jsonl: no start is recorded here; train the run first")
    killed.run.manifests["train"].unlink()
    assert_refused(killed.run.path, capsys, "train.parquet: not a saved manifest")


def test_rows_with_bad_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated = SimulatedRun(tmp_path / "run", make_manifest(SIZES), samples=192, **USUAL)
    bad = {0, 1, 2, 50, 99}
    simulated.start(0, 2, 8, {6}, bad=bad)  # what was trained after the save is lost, with its events
    simulated.start(96, 1, 6, {6}, bad=bad)
    code, accounts, broken = objects(simulated.run.path, capsys)
    assert (code, broken) == (0, [])
    rows = sum(account["bad_value"] * (1 + account["last_epoch"] - account["first_epoch"]) for account in accounts)
    assert rows == sum(len(step.bad) for step in simulated.seen[simulated.newest]) > 0
    assert "skipped: bad value" in command(simulated.run.path, capsys)[1]
    simulated.run.events.unlink()
    code, _, broken = objects(simulated.run.path, capsys)
    assert code == 1
    assert any("missing from the trace" in message for message in broken)


# ---- the real reader


def test_what_the_reader_records_is_what_the_audit_expects(tmp_path: Path) -> None:
    """Real files, one of which is gone after the run began; a start that is rolled back; 2 ranks, then 1."""
    write_dataset(tmp_path / "train", 600, seed=1)
    manifest = read_manifest(str(tmp_path / "train"), cache=None)
    (tmp_path / "train" / "part-1.parquet").rename(tmp_path / "gone")
    simulated = SimulatedRun(
        tmp_path / "run",
        manifest,
        samples=1024,
        train=str(tmp_path / "train"),
        lanes=4,
        global_batch_size=64,
        on_bad_file="skip",
    )
    read_really(simulated, at=0, ranks=2, batches=7, save=256)
    read_really(simulated, at=256, ranks=1, batches=12, save=1024)
    audit = audit_run(simulated.run.path)
    assert audit.promises_broken == ()
    assert [account.trained_once for account in audit.epochs] == [account.traced for account in audit.epochs]
    whole = audit.epochs[0]
    assert whole.trained_once + whole.unreadable == 576
    assert 276 <= whole.unreadable <= 300  # half of the rows, but for those that fill no batch


def read_really(simulated: SimulatedRun, *, at: int, ranks: int, batches: int, save: int) -> None:
    reading: Reading = simulated.reading
    log = StartLog(simulated.run.segments)
    number = log.start(at, ranks, reading.manifest.fingerprint, 0 if at else None, trace=True)
    skipped: list[SkippedRows] = []
    for rank in range(ranks):
        share = reading.lanes // ranks
        lanes = range(rank * share, (rank + 1) * share)
        source = stream(reading, lanes, at, trace=TraceWriter(simulated.run.trace_file(number, rank)))
        for _ in islice(source, batches):
            pass
        source.close()
        skipped += source.account.skipped
    events = [
        {"event": "skipped_rows", "time": TIME, "segment": number, "samples": at, **vars(entry)} for entry in skipped
    ]
    append_lines(simulated.run.events, events)
    log.reached(save)
