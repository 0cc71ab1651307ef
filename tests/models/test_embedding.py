from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torchrec import KeyedTensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.features import DenseFeature, Features, SparseFeature
from models.embedding import FeatureLayer
from models.tables import TableConfig

CPU, META = torch.device("cpu"), torch.device("meta")
TABLES = (
    TableConfig(name="item", rows=7, dim=4, pooling="mean"),
    TableConfig(name="user", rows=5, dim=8),
)
FEATURES = Features(
    sparse=(
        SparseFeature(column="user", table="user"),
        SparseFeature(column="item", table="item"),
        SparseFeature(column="friends", table="user"),
        SparseFeature(column="tags", table="item"),
    ),
    dense=(DenseFeature(column="age"), DenseFeature(column="price")),
)
BAGS = {
    "user": [[0], [4], []],
    "item": [[6], [], [2]],
    "friends": [[1, 2, 2], [], [3]],
    "tags": [[0, 1], [6, 6, 5], []],
}
DENSE_BD = torch.tensor([[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]])


def jagged(bags: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=list(bags),
        values=torch.tensor([number for feature in bags.values() for bag in feature for number in bag]),
        lengths=torch.tensor([len(bag) for feature in bags.values() for bag in feature], dtype=torch.int32),
    )


def slow_forward(layer: FeatureLayer, features: Features) -> torch.Tensor:
    rows = []
    for row in range(3):
        parts = []
        for feature in features.sparse:
            table = next(table for table in TABLES if table.name == feature.table)
            weight_RD = layer.embeddings.embedding_bags[table.name].weight
            bag = BAGS[feature.name][row]
            total_D = sum((weight_RD[number] for number in bag), torch.zeros(table.dim))
            parts.append(total_D / len(bag) if table.pooling == "mean" and bag else total_D)
        rows.append(torch.cat([*parts, DENSE_BD[row]]))
    return torch.stack(rows)


def test_embeddings_come_in_declared_order_then_dense() -> None:
    """Whatever the order of the tables and of the features' tables."""
    for tables in (TABLES, TABLES[::-1]):
        layer = FeatureLayer(tables, FEATURES, CPU)
        features_BF = layer(jagged(BAGS), DENSE_BD)
        assert features_BF.shape == (3, layer.width) == (3, 8 + 4 + 8 + 4 + 2)
        torch.testing.assert_close(features_BF, slow_forward(layer, FEATURES))
        assert torch.equal(features_BF[:, -2:], DENSE_BD)


def test_the_declared_order_is_the_features_own() -> None:
    features = FEATURES.model_copy(update={"sparse": FEATURES.sparse[::-1]})
    layer = FeatureLayer(TABLES, features, CPU)
    bags = {feature.name: BAGS[feature.name] for feature in features.sparse}
    torch.testing.assert_close(layer(jagged(bags), DENSE_BD), slow_forward(layer, features))


def test_a_plan_that_returns_another_order_changes_nothing() -> None:
    """As the sharded collection does."""
    layer = FeatureLayer(TABLES, FEATURES, CPU)
    expected = layer(jagged(BAGS), DENSE_BD)
    layer.embeddings = Reordered(layer.embeddings)
    assert torch.equal(layer(jagged(BAGS), DENSE_BD), expected)


class Reordered(torch.nn.Module):
    def __init__(self, embeddings: torch.nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, sparse: KeyedJaggedTensor) -> KeyedTensor:
        pooled = self.embeddings(sparse)
        keys = sorted(pooled.keys())
        values = [pooled[key] for key in keys]
        return KeyedTensor(keys, [value.shape[1] for value in values], torch.cat(values, dim=1))


def test_features_of_one_table_share_its_rows() -> None:
    layer = FeatureLayer(TABLES, FEATURES, CPU)
    assert sorted(layer.embeddings.embedding_bags) == ["item", "user"]
    layer(jagged(BAGS), DENSE_BD)[:, :8].sum().backward()
    gradient = layer.embeddings.embedding_bags["user"].weight.grad
    assert gradient is not None
    assert (gradient != 0).any(dim=1).tolist() == [True, False, False, False, True]
    layer.zero_grad()
    layer(jagged(BAGS), DENSE_BD)[:, 12:20].sum().backward()
    gradient = layer.embeddings.embedding_bags["user"].weight.grad
    assert gradient is not None
    assert gradient[:, 0].tolist() == [0, 1, 2, 1, 0]


def test_several_embeddings_of_an_id_are_as_many_tables() -> None:
    """The first ones of all features, then the second ones; means and sums of each."""
    layer = FeatureLayer(TABLES, FEATURES, CPU, embeddings_per_id=2)
    expected = []
    for half in (0, 1):
        narrow = tuple(table.model_copy(update={"dim": table.dim // 2}) for table in TABLES)
        single = FeatureLayer(narrow, FEATURES, CPU)
        with torch.no_grad():
            for table in narrow:
                weight_RD = layer.embeddings.embedding_bags[table.name].weight.chunk(2, dim=1)[half]
                single.embeddings.embedding_bags[table.name].weight.copy_(weight_RD)
        expected.append(single(jagged(BAGS), DENSE_BD)[:, :-2])
    torch.testing.assert_close(layer(jagged(BAGS), DENSE_BD), torch.cat([*expected, DENSE_BD], dim=1))
    assert layer.columns.names == ("user", "item", "friends", "tags") * 2 + ("age", "price")
    assert layer.columns.widths == (4, 2, 4, 2) * 2 + (1, 1)
    assert (layer.columns.embedding_width, layer.columns.dense_width, layer.width) == (12, 2, 26)


def test_no_dense_features() -> None:
    features = FEATURES.model_copy(update={"dense": ()})
    layer = FeatureLayer(TABLES, features, CPU)
    assert layer(jagged(BAGS), torch.zeros(3, 0)).shape == (3, layer.width) == (3, 24)


def test_tables_on_meta_take_no_memory() -> None:
    layer = FeatureLayer((TableConfig(name="user", rows=10**12, dim=128),), Features(sparse=FEATURES.sparse[:1]), META)
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}
    assert layer.width == 128


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 6}, "multiple of 4"),
        ({"dim": 0}, "dim"),
        ({"rows": 0}, "rows"),
        ({"name": "a b"}, "name"),
        ({"name": "a.b"}, "name"),
        ({"name": ""}, "name"),
        ({"pooling": "max"}, "pooling"),
        ({"init": -1}, "init"),
        ({"width": 4}, "width"),
    ],
)
def test_wrong_tables_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TableConfig.model_validate({"name": "user", "rows": 5, "dim": 4} | values)


def test_weights_and_poolings_of_features() -> None:
    """A mean is divided by the sum of the weights; features without weights have 1."""
    weighted = SparseFeature(column="ids", weights="w", table="user", name="weighted", pooling="mean")
    features = Features(sparse=(weighted, SparseFeature(column="item", table="item", pooling="sum")))
    layer = FeatureLayer(TABLES, features, CPU)
    bags = {"weighted": [[0, 1], [], [4]], "item": BAGS["tags"]}
    weights = torch.tensor([0.5, 1.5, -2.0] + [1.0] * 5)
    plain = jagged(bags)
    sparse = KeyedJaggedTensor(plain.keys(), plain.values(), weights, plain.lengths())
    found = layer(sparse, torch.zeros(3, 0))

    user_RD = layer.embeddings.embedding_bags["user"].weight
    item_RD = layer.embeddings.embedding_bags["item"].weight
    first = (0.5 * user_RD[0] + 1.5 * user_RD[1]) / 2
    expected = torch.stack([first, torch.zeros(8), user_RD[4]])
    torch.testing.assert_close(found[:, :8], expected)
    sums = [sum((item_RD[number] for number in bag), torch.zeros(4)) for bag in BAGS["tags"]]
    torch.testing.assert_close(found[:, 8:], torch.stack(sums))
