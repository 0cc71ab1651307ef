"""Which partitions a condition keeps: against plain Python, and what is no condition."""

import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.discovery.partitions import NULL, key_array, keys_of
from data.discovery.where import parse_where
from data.errors import DataError

KEYS = {"dt": "2022-04-30", "hour": "09", "country": "AT", "gone": None, "e=mc": "a b"}
TRUE = [
    "dt = 2022-04-30",
    "dt == '2022-04-30'",
    "dt >= 2022-04-25 and dt < 2022-05-05",
    "hour = 9",
    "hour='09'",
    "hour != 8 and hour<>7",
    "hour in (8, 9)",
    'country in ("AT", CH)',
    "not country = DE",
    "NOT (hour < 9 OR hour > 9)",
    "hour < 5 or hour > 5 and country = AT",
    "not gone = 1",
    "(hour > 8)",
]
FALSE = [
    "dt < 2022-04-30",
    "hour = '9'",
    "hour in (8)",
    "gone = 1",
    "gone != 1",
    "country = at",
    "(hour > 5 or hour < 5) and country = DE",
]
UNKNOWN = ["month = 4", "month = 4 or hour = 8", "not month = 4", "month in (4, 5)"]
DECIDED = {"month = 4 or hour = 9": True, "month = 4 and hour = 8": False}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        *((text, True) for text in TRUE),
        *((text, False) for text in FALSE),
        *((text, None) for text in UNKNOWN),
        *DECIDED.items(),
    ],
)
def test_verdicts(text: str, verdict: bool | None) -> None:
    assert parse_where(text).holds(KEYS) is verdict


@given(st.integers(-50, 50), st.integers(-50, 50), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]))
def test_numbers_compare_as_numbers(found: int, asked: int, sign: str) -> None:
    python = {"=": "=="}.get(sign, sign)
    assert parse_where(f"k {sign} {asked}").holds({"k": f"{found:03d}"}) == eval(f"{found} {python} {asked}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has its end where a key should be"),
        ("dt", "has its end where 'dt' should be compared"),
        ("dt 5", "has 5 where 'dt' should be compared"),
        ("dt >=", "has its end where a value should be"),
        ("dt = 1 hour = 2", "goes on with 'hour' where it should end"),
        ("dt = 1 and", "has its end where a key should be"),
        ("(dt = 1", "lacks a ')'"),
        ("dt in 1", "lacks a '('"),
        ("dt in ()", "has ) where a value should be"),
        ("dt = 'open", "cannot be read from"),
        ("dt ! 1", "cannot be read from '! 1' on"),
        ("= 5", "has = where a key should be"),
    ],
)
def test_what_is_no_condition(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))) as error:
        parse_where(text)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["country = 5", "country < 2022-04-25", "dt = 5"])
def test_a_value_of_another_kind_is_named(text: str) -> None:
    with pytest.raises(DataError, match=r"is compared with .*, but a folder is called '"):
        parse_where(text).holds(KEYS)


def test_keys_of_a_folder() -> None:
    assert keys_of(f"logs/dt=2022-04-30/x/hour={NULL}/a%20b=c%2Fd=e") == {
        "dt": "2022-04-30",
        "hour": None,
        "a b": "c/d=e",
    }
    assert keys_of("") == {}


@pytest.mark.parametrize(
    ("texts", "values", "kind"),
    [
        (["09", "-3", None], [9, -3, None], "int64"),
        (["2022-04-30", None], [date(2022, 4, 30), None], "date32[day]"),
        (["2022-04-31", "2022-04-30"], ["2022-04-31", "2022-04-30"], "string"),
        (["9", "x"], ["9", "x"], "string"),
        (["9" * 19], ["9" * 19], "string"),
        ([None, None], [None, None], "null"),
    ],
)
def test_values_of_a_key(texts: list[str | None], values: list[object], kind: str) -> None:
    array = key_array(texts)
    assert array.to_pylist() == values
    assert str(array.type) == kind
