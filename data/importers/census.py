"""Census-Income (KDD), UCI: the official files → a Parquet dataset with the three tasks of the AdaTT paper.

    census-income.data.gz, census-income.test.gz           42 comma-separated columns without a header
    train_nominal.parquet, test_nominal.parquet            or its 33 nominal columns and the class

Labels: income above 50,000 dollars, never married, education of a college at least. The columns that define them are
left out, since they would be features that know the answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from data.discovery.schema import Column
from data.errors import DataError, one_line
from data.storage.writer import staged_directory, write_parquet, write_schema

NAMES = (  # noqa: SIM905 - a list would take 42 lines
    "age class_worker det_ind_code det_occ_code education wage_per_hour hs_college marital_stat major_ind_code "
    "major_occ_code race hisp_origin sex union_member unemp_reason full_or_part_emp capital_gains capital_losses "
    "stock_dividends tax_filer_stat region_prev_res state_prev_res det_hh_fam_stat det_hh_summ instance_weight "
    "mig_chg_msa mig_chg_reg mig_move_reg mig_same mig_prev_sunbelt num_emp fam_under_18 country_father country_mother "
    "country_self citizenship own_or_self vet_question vet_benefits weeks_worked year income_50k"
).split()
"""Columns of the official files, in their order."""
NUMBERS = ("age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp", "weeks_worked")
WEIGHT = "instance_weight"
DEFINE_LABELS = ("income_50k", "marital_stat", "education")
COLLEGE = "^(Bachelors|Masters|Prof|Doctorate)"
LABELS = {
    "income": "1 if the person's income is above 50,000 dollars.",
    "never_married": "1 if the person has never been married.",
    "college": "1 if the person has a bachelor's, master's, professional or doctor's degree.",
}
SPLITS = {"train": "data", "test": "test"}
"""What the official files call them."""
OFFICIAL = "take the files of the official release: census-income.data.gz and census-income.test.gz"


@dataclass(frozen=True)
class CensusSummary:
    """What was written."""

    rows: dict[str, int]
    """By split."""
    rates: dict[str, float]
    """Share of positives in the training rows, by label."""


def import_census(source: Path, out: Path, *, halves: bool = False) -> CensusSummary:
    """Writes OUT/train, OUT/test and OUT/schema.json, all or nothing; DataError names what is missing or wrong.

    `halves`: one half of the official test rows, drawn at random, goes to OUT/validation, as in the AdaTT paper.
    """
    tables = {split: _with_labels(_read(source, split)) for split in SPLITS}
    if halves:
        tables |= _halves(tables["test"])

    with staged_directory(out) as folder:
        for split, table in tables.items():
            write_parquet(folder / split / "part-00000.parquet", table.schema, [table])
        write_schema(folder, _described(tables["train"]))

    rates = {label: pc.mean(tables["train"][label]).as_py() for label in LABELS}
    return CensusSummary({split: table.num_rows for split, table in tables.items()}, rates)


def _halves(table: pa.Table) -> dict[str, pa.Table]:
    """Validation and test rows; the same at every import."""
    order = np.random.default_rng(0).permutation(table.num_rows)
    middle = table.num_rows // 2
    rows = {"validation": order[:middle], "test": order[middle:]}
    return {split: table.take(np.sort(of_split)) for split, of_split in rows.items()}


def _read(source: Path, split: str) -> pa.Table:
    official = f"census-income.{SPLITS[split]}"
    for path in (source / f"{official}.gz", source / official):
        if path.is_file():
            return _read_official(path)
    path = source / f"{split}_nominal.parquet"
    if not path.is_file():
        raise DataError(f"{source}: no {official}.gz in it; {OFFICIAL}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}); {OFFICIAL}") from error
    missing = [name for name in DEFINE_LABELS if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}, which defines a label; {OFFICIAL}")
    return pa.table({name: table[name].cast(pa.string()) for name in table.column_names})


def _read_official(path: Path) -> pa.Table:
    types = dict.fromkeys(NAMES, pa.string()) | dict.fromkeys(NUMBERS, pa.int64()) | {WEIGHT: pa.float64()}
    # Values stand behind a space, and Arrow reads numbers without one.
    as_text = arrow_csv.ConvertOptions(column_types=dict.fromkeys(NAMES, pa.string()), strings_can_be_null=False)
    try:
        with pa.input_stream(path, compression="detect") as file:
            table = arrow_csv.read_csv(file, arrow_csv.ReadOptions(column_names=NAMES), convert_options=as_text)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not the official file ({one_line(error)}); {OFFICIAL}") from error

    columns = {}
    for name, kind in types.items():
        text = pc.utf8_trim_whitespace(table[name])
        try:
            columns[name] = text.cast(kind)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: column {name!r} holds no numbers ({one_line(error)}); {OFFICIAL}") from error
    return pa.table(columns)


def _with_labels(table: pa.Table) -> pa.Table:
    labels = {
        "income": pc.starts_with(table["income_50k"], "50000+"),
        "never_married": pc.starts_with(table["marital_stat"], "Never"),
        "college": pc.match_substring_regex(table["education"], COLLEGE),
    }
    features = {name: table[name] for name in table.column_names if name not in DEFINE_LABELS}
    return pa.table(features | {name: label.cast(pa.int8()) for name, label in labels.items()})


def _described(table: pa.Table) -> Iterator[Column]:
    for field in table.schema:
        if field.name in LABELS:
            yield Column(field.name, str(field.type), "label", LABELS[field.name])
        elif field.name == WEIGHT:
            yield Column(field.name, str(field.type), "key", "How many persons the row stands for; no feature.")
        else:
            yield Column(field.name, str(field.type), "feature", f"{field.name} of the official release.")
