"""Wrong input ends with 2 and one line, and with nothing else: the short form of `make faults`."""

from pathlib import Path

import pytest

from tests.faults.wrong_inputs import ALONE, LAUNCHED, end_of, write_inputs


@pytest.mark.parametrize("way", [ALONE, LAUNCHED])
def test_a_bad_row_that_one_rank_finds(tmp_path: Path, way: str) -> None:
    bad_row = write_inputs(tmp_path)[-1]
    code, (line,) = end_of(way, bad_row)
    assert code == 2
    assert line.startswith("error: row 5 of row group 0 of")
    assert "label 'click' is 2" in line
