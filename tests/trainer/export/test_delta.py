"""Rows that changed, put into the older table, make the newer one to the byte."""

from pathlib import Path

import pytest
import torch

from trainer.export import delta
from trainer.export.delta import apply_changes, write_changes
from trainer.export.tables import TABLE_FORMATS, TableFormat, read_file, write_table

ROWS = 50


@pytest.mark.parametrize("kind", TABLE_FORMATS)
@pytest.mark.parametrize("changed", [[], [0], [6, 7, 8, 49], list(range(ROWS))], ids=len)
def test_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: TableFormat, changed: list[int]) -> None:
    monkeypatch.setattr(delta, "BLOCK_ROWS", 7)
    older, newer, changes = (tmp_path / name for name in ("older", "newer", "changes"))
    values_RE = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
    write_table(older, values_RE, kind)
    values_RE[changed] += 1
    write_table(newer, values_RE, kind)
    assert write_changes(changes, newer, older) == len(changed)
    assert read_file(changes)["rows"].tolist() == changed
    apply_changes(older, changes)
    assert older.read_bytes() == newer.read_bytes()


def test_bits_count(tmp_path: Path) -> None:
    """-0 is another value than 0, and NaN is equal to itself."""
    older, newer = tmp_path / "older", tmp_path / "newer"
    write_table(older, torch.tensor([[0.0], [torch.nan], [1.0]]), "float32")
    write_table(newer, torch.tensor([[-0.0], [torch.nan], [1.0]]), "float32")
    assert write_changes(tmp_path / "changes", newer, older) == 1
