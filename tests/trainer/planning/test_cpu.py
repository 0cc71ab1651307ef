"""Plans for this machine, whose rates are measured."""

import math

from benchmarks.rates import Shape, measure_rates
from models.columns import unnamed_columns
from trainer.config.load import load_config
from trainer.planning.plan import Size
from trainer.planning.sweep import plan_sizes


def test_rates_of_ranks_that_share_a_machine() -> None:
    head = load_config("configs/bench-embeddings.toml").model
    shape = Shape(
        head,
        columns=unnamed_columns(32),
        tasks=("click",),
        table_rows=1000,
        dim=16,
        features_of_tables=(1, 2),
        bags=256,
        ids_per_bag=2,
    )
    rates = measure_rates(2, shape)
    assert rates.processes == 2
    for rate in (rates.head_flops, rates.copied, rates.exchanged, rates.lookup_seconds, rates.update_seconds):
        assert 0 < rate < math.inf


def test_a_plan_for_this_machine() -> None:
    config = load_config("configs/quickstart.toml", ["data.train=nowhere"])
    (result,) = plan_sizes(config, [1], "cpu", None, [])
    assert isinstance(result, Size)
    assert result.fits
    assert result.parts.exchange == 0
    assert result.memory[0].copy > 0  # what a save copies lies in the same memory
    assert result.cluster.device.measured
