"""Events fall on the first batch boundary at or after their samples, each once."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.clock import Due, Milestone, parse_milestone


@given(
    batch=st.integers(1, 100),
    batches=st.integers(1, 200),
    at=st.sets(st.integers(1, 20_000), max_size=5),
    every=st.none() | st.integers(1, 3_000),
)
def test_due_against_a_slow_reading(batch: int, batches: int, at: set[int], every: int | None) -> None:
    end = batch * batches
    due = Due(batch=batch, end=end, at=tuple(at), every=every)
    expected = {min(-(-samples // batch) * batch, end) for samples in at}
    if every is not None:
        expected |= {-(-multiple // batch) * batch for multiple in range(every, end + 1, every)} | {end}
    boundaries = range(batch, end + 1, batch)
    assert [samples for samples in boundaries if due(samples)] == sorted(expected)


def test_next_event_is_strictly_later() -> None:
    due = Due(batch=64, end=1024, at=(100, 640))
    assert [due.next(samples) for samples in (0, 64, 128, 640, 704)] == [128, 128, 640, 1024, 1024]


def test_counts_beyond_32_and_53_bits_stay_exact() -> None:
    batch, end = 65_536, 10**17 // 65_536 * 65_536
    due = Due(batch=batch, end=end, at=(70_000_000_000, end - 1))
    assert due.boundary(70_000_000_000) == 70_000_050_176
    assert due(70_000_050_176)
    assert not due(70_000_050_176 - batch)
    assert due(end)


def test_milestone_keeps_the_text() -> None:
    assert parse_milestone("10B") == Milestone("10B", 10**10)
    assert parse_milestone(300_000) == Milestone("300k", 300_000)
