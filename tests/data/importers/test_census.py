"""Census-Income: the official text and the Parquet of its nominal columns become the same labels."""

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.discovery.dataset import read_manifest
from data.errors import DataError
from data.importers.census import LABELS, NAMES, import_census
from data.manifest import read_schema

SHARED = Path(__file__).parents[4] / "shared" / "data" / "census_income_kdd"
LINE = (
    "73, Not in universe, 0, 0, High school graduate, 0, Not in universe, Widowed, Not in universe or children, "
    "Not in universe, White, All other, Female, Not in universe, Not in universe, Not in labor force, 0, 0, 0, "
    "Nonfiler, Not in universe, Not in universe, Other Rel 18+ ever marr not in subfamily, "
    "Other relative of householder, 1700.09, "
    "?, ?, ?, Not in universe under 1 year old, ?, 0, Not in universe, United-States, United-States, United-States, "
    "Native- Born in the United States, 0, Not in universe, 2, 0, 95, - 50000."
)
RICH = LINE.replace("High school graduate", "Prof school degree (MD DDS DVM LLB JD)").replace("- 50000.", "50000+.")
YOUNG = LINE.replace("Widowed", "Never married").replace("73,", "18,", 1)


def write(folder: Path, name: str, *lines: str) -> None:
    folder.mkdir(exist_ok=True)
    text = "".join(f"{line}\n" for line in lines).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_official_text(tmp_path: Path, ending: str) -> None:
    write(tmp_path / "raw", f"census-income.data{ending}", LINE, RICH, YOUNG)
    write(tmp_path / "raw", f"census-income.test{ending}", YOUNG)
    summary = import_census(tmp_path / "raw", tmp_path / "out")
    assert summary.rows == {"train": 3, "test": 1}
    assert summary.rates == pytest.approx({"income": 1 / 3, "never_married": 1 / 3, "college": 1 / 3})

    train = pq.read_table(tmp_path / "out" / "train")
    assert [train[label].to_pylist() for label in LABELS] == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert train["age"].to_pylist() == [73, 73, 18]
    assert train["instance_weight"].to_pylist() == [1700.09] * 3
    assert train["race"].to_pylist() == ["White"] * 3
    assert train["year"].to_pylist() == ["95"] * 3
    assert not {"education", "marital_stat", "income_50k"} & {*train.column_names}
    assert len(train.column_names) == len(NAMES)
    roles = {name: column.role for name, column in read_schema(read_manifest(str(tmp_path / "out" / "train"))).items()}
    assert {name for name, role in roles.items() if role == "label"} == {*LABELS}
    assert roles["instance_weight"] == "key"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the Parquet files of Census-Income in {SHARED}")
def test_the_nominal_columns(tmp_path: Path) -> None:
    summary = import_census(SHARED, tmp_path / "out")
    assert summary.rows == {"train": 199_523, "test": 99_762}
    assert summary.rates == pytest.approx({"income": 0.06206, "never_married": 0.4335, "college": 0.1477}, abs=1e-3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "no census-income.data.gz in it"),
        ([LINE, "1, 2, 3"], "not the official file (CSV parse error: Expected 42 columns, got 3"),
        ([LINE.replace("73,", "old,", 1)], "column 'age' holds no numbers"),
    ],
)
def test_what_is_not_official_is_named(tmp_path: Path, lines: list[str] | None, message: str) -> None:
    (tmp_path / "raw").mkdir()
    if lines is not None:
        write(tmp_path / "raw", "census-income.data", *lines)
    with pytest.raises(DataError) as error:
        import_census(tmp_path / "raw", tmp_path / "out")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_halves_of_the_test_rows(tmp_path: Path) -> None:
    people = [LINE.replace("73,", f"{age},", 1) for age in range(20, 61)]
    write(tmp_path / "raw", "census-income.data", LINE)
    write(tmp_path / "raw", "census-income.test", *people)
    summary = import_census(tmp_path / "raw", tmp_path / "out", halves=True)
    assert summary.rows == {"train": 1, "test": 21, "validation": 20}

    ages = {split: pq.read_table(tmp_path / "out" / split)["age"].to_pylist() for split in ("test", "validation")}
    assert sorted(ages["test"] + ages["validation"]) == list(range(20, 61))
    assert ages["test"] == sorted(ages["test"])  # in the order of the file
    assert len({age // 10 for age in ages["validation"]}) > 3  # from all over it
