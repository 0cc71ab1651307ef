"""The exported network answers as the trained one, for every head and any number of rows and ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from models.losses import predictions
from models.ranker import Ranker
from models.tables import table_key
from tests.trainer.datasets import config_values
from tests.trainer.test_worlds import HEADS
from trainer.build_model import build_model
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.export.program import with_tables, without_tables, write_program
from trainer.export.served import ServedModel
from trainer.export.tables import TABLE_FORMATS, StoredTable, open_table, write_table

ROWS = (7, 0, 1, 3000)
"""More than the rows that go through a head at once on a CPU."""


def _ranker(config: Config) -> Ranker:
    torch.manual_seed(3)
    ranker = build_model(config, torch.device("cpu"))
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return ranker.eval()


def _inputs(config: Config, num_rows: int) -> tuple[dict[str, dict[str, torch.Tensor]], torch.Tensor]:
    generator = np.random.Generator(np.random.Philox(num_rows))
    rows = {table.name: table.rows for table in config.tables}
    sparse = {}
    for feature in config.features.sparse:
        lengths = generator.integers(0, 4, num_rows)
        lengths[: num_rows // 2] = 0
        offsets = np.cumsum(lengths) - lengths
        ids = generator.integers(0, rows[feature.table], lengths.sum())
        sparse[feature.name] = {"ids": torch.from_numpy(ids), "offsets": torch.from_numpy(offsets)}
        if feature.weights:
            sparse[feature.name]["weights"] = torch.from_numpy(generator.normal(size=len(ids)).astype(np.float32))
    dense = torch.from_numpy(generator.normal(size=(num_rows, config.features.dense_width)).astype(np.float32))
    return sparse, dense


def _of_trained(ranker: Ranker, sparse: dict[str, dict[str, torch.Tensor]], dense_BD: torch.Tensor) -> torch.Tensor:
    """predictions_BT, by the feature layer that is trained."""
    num_rows = len(dense_BD)
    lengths = [torch.diff(given["offsets"], append=torch.tensor([len(given["ids"])])) for given in sparse.values()]
    weights = [given.get("weights", torch.ones(len(given["ids"]))) for given in sparse.values()]
    jagged = KeyedJaggedTensor(
        list(sparse),
        torch.cat([given["ids"] for given in sparse.values()]),
        torch.cat(weights) if ranker.features.is_weighted else None,
        torch.cat(lengths).to(torch.int32),
        stride=num_rows,
    )
    with torch.no_grad():
        _, logits_BT = ranker.logits(ranker.features(jagged, dense_BD))
        return predictions(logits_BT, ranker.is_binary_T)


def _exported(config: Config, ranker: Ranker, folder: Path) -> Any:
    """The loaded program."""
    bags = ranker.features.embeddings.embedding_bags
    tables = {
        table.name: StoredTable(bags[table_key(table.name)].weight.detach().clone()) for table in config.tables_held
    }
    write_program(folder / "model.pt2", ServedModel(ranker, tables, config.features, config.tasks))
    return torch.export.load(folder / "model.pt2").module()


def _config(tmp_path: Path, head: str, keys: dict[str, Any], **sections: Any) -> Config:
    values = config_values(tmp_path, **sections)
    values["model"] = {"head": head, "levels": [[16], [8]], "tower": [8], **keys}
    return parse_config(values, head)


@pytest.mark.parametrize("head", HEADS)
def test_every_head(tmp_path: Path, head: str) -> None:
    config = _config(tmp_path, head, HEADS[head])
    ranker = _ranker(config)
    inputs = {num_rows: _inputs(config, num_rows) for num_rows in ROWS}
    expected = {num_rows: _of_trained(ranker, *inputs[num_rows]) for num_rows in ROWS if num_rows}
    program = _exported(config, ranker, tmp_path)
    for num_rows in ROWS:
        found = program(*inputs[num_rows])
        assert list(found) == [task.name for task in config.tasks]
        found_BT = torch.stack(list(found.values()), dim=1)
        assert found_BT.shape == (num_rows, 3)
        if num_rows:
            torch.testing.assert_close(found_BT, expected[num_rows], rtol=1e-6, atol=1e-6)


OTHERS: dict[str, dict[str, Any]] = {
    "weights and means": {
        "features": {
            "dense": [],
            "sparse": [
                {"column": "recent", "table": "video", "weights": "weights", "pooling": "mean"},
                {"column": "user", "table": "user"},
            ],
        }
    },
    "products": {
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click"},
            {"name": "rare", "kind": "binary", "label": "rare"},
            {"name": "both", "kind": "product", "of": ["click", "rare"], "label": "rare"},
        ]
    },
    "rotograd": {"balance": {"method": "rotograd"}},
    "one task": {"tasks": [{"name": "click", "kind": "binary", "label": "click"}]},
    "a table called items": {
        "tables": [{"name": "items", "rows": 9, "dim": 4}],
        "features": {"sparse": [{"column": "user", "table": "items"}]},
    },
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_configs(tmp_path: Path, name: str) -> None:
    config = _config(tmp_path, "shared_bottom", {}, **OTHERS[name])
    ranker = _ranker(config)
    inputs = _inputs(config, 7)
    expected = _of_trained(ranker, *inputs)
    found = torch.stack(list(_exported(config, ranker, tmp_path)(*inputs).values()), dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_tables_of_every_format(tmp_path: Path, kind: Any) -> None:
    """The program reads the values that the table's file stands for."""
    config = _config(tmp_path, "shared_bottom", {})
    ranker = _ranker(config)
    stored = {}
    bags = ranker.features.embeddings.embedding_bags
    for table in config.tables:
        path = tmp_path / f"{table.name}.safetensors"
        write_table(path, bags[table.name].weight.detach(), kind)
        stored[table.name] = open_table(path)
        with torch.no_grad():
            bags[table.name].weight.copy_(stored[table.name].floats(slice(None)))
    inputs = _inputs(config, 7)
    expected = _of_trained(ranker, *inputs)
    write_program(tmp_path / "model.pt2", ServedModel(ranker, stored, config.features, config.tasks))
    found = torch.stack(list(torch.export.load(tmp_path / "model.pt2").module()(*inputs).values()), dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)

    without_tables(tmp_path / "model.pt2", tmp_path / "reduced.pt2")
    assert (tmp_path / "reduced.pt2").stat().st_size < (tmp_path / "model.pt2").stat().st_size
    with_tables(tmp_path / "reduced.pt2", stored, tmp_path / "whole.pt2")
    assert (tmp_path / "whole.pt2").read_bytes() == (tmp_path / "model.pt2").read_bytes()
