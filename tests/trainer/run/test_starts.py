"""The records of a run's starts, and which of their work survives."""

import json
import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import ConfigError, RunError
from trainer.run.starts import RunStart, SampleRange, StartLog, gaps, read_starts, surviving

exact = settings(max_examples=200)


def segment(number: int, begin: int, reached: int) -> RunStart:
    return RunStart(
        segment=number,
        started=datetime(2026, 1, 2, tzinfo=UTC),
        begin=begin,
        reached=reached,
        world_size=1,
        checkpoint=str(begin) if begin else None,
        fingerprint="f",
        trace=False,
        end=None,
    )


# ---- the surviving line


def slow_line(spans: list[tuple[int, int]]) -> list[int | None]:
    """The start that trained each sample, by doing what the starts did; None: nobody did."""
    line: list[int | None] = []
    for number, (begin, reached) in enumerate(spans):
        line += [None] * (begin - len(line))
        line[begin:] = [number] * (reached - begin)
    return line


@exact
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=6))
def test_pieces_equal_a_slow_line(found: list[tuple[int, int]]) -> None:
    spans = [(min(span), max(span)) for span in found]
    segments = [segment(number, *span) for number, span in enumerate(spans)]
    pieces = surviving(segments)
    line: list[int | None] = [None] * (spans[-1][1] if spans else 0)
    for piece in pieces:
        assert piece.begin < piece.end
        assert line[piece.begin : piece.end] == [None] * (piece.end - piece.begin)
        line[piece.begin : piece.end] = [piece.segment] * (piece.end - piece.begin)
    assert line == slow_line(spans)
    missing = [sample for begin, end in gaps(pieces, len(line)) for sample in range(begin, end)]
    assert missing == [sample for sample, owner in enumerate(line) if owner is None]


@exact
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=8))
def test_starts_that_go_on_from_what_was_reached_join(found: list[tuple[float, int]]) -> None:
    segments: list[RunStart] = []
    for share, trained in found:
        begin = int(share * segments[-1].reached) if segments else 0
        segments.append(segment(len(segments), begin, begin + trained))
    pieces = surviving(segments)
    assert gaps(pieces, segments[-1].reached) == []
    assert all(one.end == other.begin for one, other in pairwise(pieces))
    assert sum(piece.end - piece.begin for piece in pieces) == segments[-1].reached


def test_the_picture() -> None:
    """A kill, a checkpoint, another start whose checkpoints are lost."""
    assert surviving([segment(0, 0, 40), segment(1, 40, 90), segment(2, 40, 120)]) == [
        SampleRange(0, 0, 40),
        SampleRange(2, 40, 120),
    ]


def test_a_gap_before_a_start_that_saved_nothing() -> None:
    pieces = surviving([segment(0, 0, 60), segment(1, 100, 100)])
    assert pieces == [SampleRange(0, 0, 60)]
    assert gaps(pieces, 100) == [(60, 100)]


# ---- the log


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_record_of_a_start(tmp_path: Path) -> None:
    path = tmp_path / "segments.jsonl"
    log = StartLog(path, "1d")
    assert log.start(0, 2, "abc", None, trace=False) == 0
    (record,) = lines(path)
    started = datetime.fromisoformat(record.pop("started"))
    assert started.utcoffset() is not None
    assert abs(datetime.now(UTC) - started).total_seconds() < 60
    expected = {
        "segment": 0,
        "from": 0,
        "to": 0,
        "world_size": 2,
        "checkpoint": None,
        "fingerprint": "abc",
        "trace": False,
        "end": None,
        "run": "1d",
    }
    assert record == expected
    log.reached(128)
    log.reached(64)  # a save that was under way longer
    assert lines(path)[0]["to"] == 128
    log.finish("stopped")
    assert lines(path)[0]["end"] == "stopped"
    assert StartLog(path).start(128, 4, "abc", 0, trace=False) == 1
    assert [(entry["from"], entry["to"], entry["end"]) for entry in lines(path)] == [
        (0, 128, "stopped"),
        (128, 128, None),
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["segments.jsonl"]


def test_a_checkpoint_that_was_not_noted_counts(tmp_path: Path) -> None:
    log = StartLog(tmp_path / "segments.jsonl")
    log.start(0, 2, "abc", None, trace=False)
    log.reached(64)
    again = StartLog(tmp_path / "segments.jsonl")
    again.start(192, 2, "abc", 0, trace=False)
    again.reached(256)
    assert [(entry.begin, entry.reached) for entry in read_starts(tmp_path / "segments.jsonl")] == [
        (0, 192),
        (192, 256),
    ]


def test_going_back_leaves_the_records_of_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "segments.jsonl"
    log = StartLog(path)
    log.start(0, 2, "abc", None, trace=False)
    log.reached(640)
    StartLog(path).start(64, 1, "abc", 0, trace=False)
    assert [(entry["from"], entry["to"]) for entry in lines(path)] == [(0, 640), (64, 64)]
    assert surviving(read_starts(path)) == [SampleRange(0, 0, 64)]


def test_half_a_rewrite_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "segments.jsonl"
    StartLog(path).start(0, 1, "abc", None, trace=False)
    path.with_suffix(".partial").write_text('{"segm')
    assert len(read_starts(path)) == 1
    assert StartLog(path).start(0, 1, "abc", None, trace=False) == 1


def test_a_disk_that_does_not_take_it(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "segments.jsonl"
    with pytest.raises(RunError, match=r"segments\.jsonl: cannot be written \(No such file or directory\)"):
        StartLog(path).start(0, 1, "abc", None, trace=False)


def test_no_file_is_no_start(tmp_path: Path) -> None:
    assert read_starts(tmp_path / "segments.jsonl") == []


GOOD = segment(0, 0, 64).model_dump_json(by_alias=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "line 1 is not the record of a start (Invalid JSON"),
        ('{"segment": 0', "line 1 is not the record of a start (Invalid JSON"),
        ("", "line 1 is not the record of a start (Invalid JSON"),
        ("[]", "line 1 is not the record of a start (Input should be an object)"),
        (GOOD.replace('"from":0,', ""), "(from: Field required)"),
        (GOOD.replace('"from":0', '"begin":0'), "(from: Field required)"),
        (GOOD.replace('"to":64', '"to":"64"'), '(to: Input should be a valid integer, not "64")'),
        (GOOD.replace('"to":64', '"to":6.5'), "(to: Input should be a valid integer, not 6.5)"),
        (GOOD.replace('"to":64', f'"to":{1 << 62}'), "(to: Input should be less than"),
        (GOOD.replace('"from":0', '"from":65'), "(to = 64 lies before from = 65)"),
        (GOOD.replace('"world_size":1', '"world_size":0'), "(world_size: Input should be greater than 0, not 0)"),
        (
            GOOD.replace('"end":null', '"end":"lost"'),
            "(end: Input should be 'finished', 'stopped' or 'failed'",
        ),
        (GOOD.replace("2026-01-02T", "yesterday "), "(started: Input should be a valid datetime"),
        (GOOD.replace('"end"', '"more":1,"end"'), "(more: Extra inputs are not permitted, not 1)"),
        (GOOD + "\n" + GOOD, "line 2 is not the record of a start (segment is 0, not 1)"),
    ],
)
def test_damage_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "segments.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_starts(path)
    assert str(caught.value).startswith(f"{path}: line")
    assert str(caught.value).endswith("restore the file from a copy")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "segments.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_starts(path)
