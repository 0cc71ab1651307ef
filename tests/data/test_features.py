from typing import Any

import pytest
from pydantic import ValidationError

from data.features import DenseFeature, Features, SparseFeature


def test_a_feature_is_named_after_its_column() -> None:
    assert SparseFeature(column="user_id", table="user").name == "user_id"
    assert SparseFeature(column="user_id", table="user", name="viewer").name == "viewer"
    assert SparseFeature.model_validate({"column": "user_id", "table": "user"}).name == "user_id"


def test_columns_are_listed_once_in_declared_order() -> None:
    features = Features(
        sparse=(
            SparseFeature(column="tag", table="tag"),
            SparseFeature(column="user", table="user"),
            SparseFeature(column="tag", table="user", name="other", hash=True),
        ),
        dense=(DenseFeature(column="age"), DenseFeature(column="user"), DenseFeature(column="age", transform="log1p")),
    )
    assert features.columns == ["tag", "user", "age"]
    assert Features().columns == []


@pytest.mark.parametrize("boundaries", [(), (0.0,), (-1.0, 0.0, 2.5)])
def test_boundaries_ascend(boundaries: tuple[float, ...]) -> None:
    assert SparseFeature(column="age", table="age", boundaries=boundaries).boundaries == boundaries


@pytest.mark.parametrize("boundaries", [(1.0, 0.0), (0.0, 0.0), (0.0, 2.0, 1.0)])
def test_boundaries_that_do_not_ascend_are_refused(boundaries: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="boundaries must ascend strictly"):
        SparseFeature(column="age", table="age", boundaries=boundaries)


def test_boundaries_are_not_hashed() -> None:
    with pytest.raises(ValidationError, match="hash and boundaries exclude each other"):
        SparseFeature(column="age", table="age", boundaries=(1.0,), hash=True)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DenseFeature, {"column": "x", "scale": 0}, "scale"),
        (DenseFeature, {"column": "x", "scale": -1}, "scale"),
        (DenseFeature, {"column": "x", "mean": float("nan")}, "mean"),
        (DenseFeature, {"column": "x", "transform": "log"}, "transform"),
        (DenseFeature, {"column": "x", "means": 1}, "means"),
        (SparseFeature, {"column": "x"}, "table"),
        (SparseFeature, {"table": "x"}, "column"),
        (SparseFeature, {"column": "x", "table": "x", "boundaries": (1.0, float("inf"))}, "boundaries"),
        (SparseFeature, "x", "SparseFeature"),
    ],
)
def test_wrong_values_are_refused(kind: type[Any], values: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(values)


def test_features_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DenseFeature(column="x").column = "y"  # type: ignore[misc]
