"""A node whose clock is minutes off is named on all ranks."""

import re

import pytest

from tests.ranks import run_on_ranks
from trainer.distributed.clocks import check_clocks
from trainer.distributed.world import World
from trainer.errors import ConfigError


def _check(world: World, ahead: tuple[float, ...]) -> str | None:
    try:
        check_clocks(world, ahead[world.rank])
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        ((0.0,), None),
        ((0.0, 30.0), None),
        ((0.0, 0.0, 301.0), "the clock of rank 2 (host .*) is 30[0-2] s ahead of that of rank 0 "),
        ((301.0, 0.0, 301.0), "the clock of rank 1 (host .*) is 30[0-2] s behind that of rank 0 "),
    ],
)
def test_a_clock_that_is_off_is_named(ahead: tuple[float, ...], expected: str | None) -> None:
    for found in run_on_ranks(len(ahead), _check, ahead):
        assert (found is None) == (expected is None)
        if expected:
            assert found is not None
            assert re.match(expected.replace("(", r"\(").replace(")", r"\)"), found)
