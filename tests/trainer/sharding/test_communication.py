"""Embeddings that travel as float16: near to float32, rounded, and not at all on one rank."""

import numpy as np
import pytest

from tests.ranks import run_on_ranks
from tests.trainer.sharding.test_plan import table, tables_config, train_some
from trainer.config.compatibility import difference, differences, plain
from trainer.config.run_config import Config


def config_of(communication: str, sharding: str) -> Config:
    tables = [table("a", 50, 8) | {"sharding": sharding}, table("b", 1000, 16) | {"sharding": sharding}]
    return tables_config(tables, sharding={"communication": communication})


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_float16_between_ranks_is_near_to_float32(sharding: str) -> None:
    plain_config, rounded = config_of("float32", sharding), config_of("float16", sharding)
    expected, found = run_on_ranks(2, train_some, [plain_config, rounded])[0]
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-3)
    assert found.losses != expected.losses
    for name, values in expected.tables.items():
        np.testing.assert_allclose(found.tables[name], values, rtol=1e-2, atol=1e-3)


def test_it_may_change_in_a_run_when_that_is_asked_for() -> None:
    before, now = config_of("float32", "auto"), config_of("float16", "auto")
    assert differences(before, now) == [("sharding.communication", "'float32'", "'float16'")]
    assert difference(plain(before), plain(now)) is None
