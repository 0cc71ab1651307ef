import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.counts import count_heading, format_count, parse_bytes, parse_count

exact = settings(max_examples=200)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("70B", 70 * 10**9),
        ("2.1M", 2_100_000),
        ("300k", 300_000),
        (" 1.5 k ", 1500),
        ("4096", 4096),
        ("1_000_000", 10**6),
        ("0", 0),
        ("0.000000001B", 1),
        ("1.0", 1),
        (4096, 4096),
        (70_000_000_001, 70_000_000_001),
        # 4.35 * 1000 = 4350.000000000001 and 1.1 * 10**9 = 1100000000.0000001 in floating point
        ("4.35k", 4350),
        ("1.1B", 1_100_000_000),
        ("123456789.123456789B", 123456789123456789),
    ],
)
def test_counts_are_read_exactly(text: str | int, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text", ["", "B", "k70", "70 billion", "70G", "1e9", "-1", -1, "1,000", "½", ".5k", "5.", "70b"]
)
def test_other_texts_are_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match="is not a count; write a whole number, or one with k, M or B") as raised:
        parse_count(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("500MB", 5 * 10**8), ("4_096", 4096), (7, 7), ("1.1kB", 1100)],
)
def test_sizes_in_memory(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "2G", "2gb", "-1MB", True, "GB", "1e9", None])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write a number of bytes, or one with a unit, such as 500MB"):
        parse_bytes(text)


@pytest.mark.parametrize("value", [True, False, None, [1], 1e300])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a count"):
        parse_count(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["1.5", "0.0001k", "1.0000000001B"])
def test_a_fraction_of_a_sample_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"'{text}' is not a whole number of samples"):
        parse_count(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (4096, "4_096"),
        (37_888, "37_888"),
        (166_400, "166_400"),
        (199_168, "199_168"),
        (2_050_000, "2.05M"),
        (2_100_000, "2.1M"),
        (70 * 10**9, "70B"),
        (1_234_567, "1_234_567"),
        (10**13, "10000B"),
        (10**15, "1_000_000_000_000_000"),
    ],
)
def test_counts_are_written_short(count: int, text: str) -> None:
    assert format_count(count) == text


@exact
@given(
    st.integers(0, 10**13)
    | st.builds(lambda digits, zeros: digits * 10**zeros, st.integers(0, 999), st.integers(0, 12))
)
@example(999_999_999)
@example(10**12 + 1)
def test_what_is_written_is_read_back(count: int) -> None:
    assert parse_count(format_count(count)) == count


def test_headings_do_not_mix_ways_to_write_a_count() -> None:
    counts = (300_000, 37_888, 199_168, 2_100_000)
    assert [count_heading(count) for count in counts] == ["300k", "37,888", "199,168", "2.1M"]
    assert [count_heading(2_000, "2_000"), count_heading(2_048, "2k")] == ["2,000", "2k"]
