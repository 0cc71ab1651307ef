"""The parts of a step as pure functions: what follows from bytes and FLOPs by hand, and what must grow or shrink."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cost import HeadCost
from trainer.planning.devices import GPUS, Device, Efficiency
from trainer.planning.placed import PlacedTable, RankLoad, id_bytes, rank_loads, received, sent
from trainer.planning.prediction import (
    StepParts,
    all_reduce_seconds,
    head_seconds,
    lookup_seconds,
    optimizer_seconds,
    predict_step,
    reading_seconds,
    step_seconds,
    update_seconds,
)
from trainer.planning.topology import Cluster
from trainer.planning.workload import Workload

DEVICE = Device(
    name="plain",
    type="cuda",
    local_size=4,
    memory=1 << 30,
    host_memory=1 << 34,
    memory_rate=1000.0,
    flops={"float32": 10_000.0},
    link_rate=100.0,
    network_rate=10.0,
    host_link_rate=50.0,
    efficiency=Efficiency(products=0.5, lookup=0.5, update=0.25, streaming=1.0, links=0.5),
    step_seconds=2.0,
    reading_seconds=0.01,
)
WORK = Workload(
    global_batch_size=64,
    ids_per_row={"a": 3.0, "b": 1.0},
    features_of={"a": 2, "b": 1},
    inputs=24,
    dense_width=0,
    labels=1,
    head=HeadCost(parameters=10, forward_flops=100),
    activation_bytes=50,
    precision="float32",
    dense_state=2,
    bytes_per_row=40.0,
    reading_threads=2,
)
CLUSTER = Cluster(DEVICE, 8, 4)
PARTS = StepParts(reading=1, lookup=2, exchange=3, head=6, all_reduce=5, update=4, optimizer=0.5, overhead=0.5)


def test_a_table_on_one_rank_is_an_all_to_all_over_links_and_network() -> None:
    assert sent("table_wise", 80.0, CLUSTER) == (30.0, 40.0)  # 3 of 8 ranks share its node, 4 do not


def test_rows_on_all_ranks_are_a_reduce_scatter_of_all_rows() -> None:
    assert sent("row_wise", 80.0, CLUSTER) == (70.0, 20.0)
    assert sent("row_wise", 80.0, Cluster(DEVICE, 4, 4)) == (60.0, 0.0)


def test_rows_on_a_node_are_a_reduce_scatter_there_and_an_all_to_all_between_nodes() -> None:
    assert sent("table_row_wise", 80.0, CLUSTER) == (60.0, 10.0)


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "table_row_wise"])
def test_a_single_rank_sends_nothing(sharding: str) -> None:
    assert sent(sharding, 80.0, Cluster(DEVICE, 1, 1)) == (0.0, 0.0)


def test_each_rank_does_the_work_of_its_rows() -> None:
    tables = [PlacedTable("a", 8, 4, "row_wise", tuple((rank, 1) for rank in range(8)))]
    tables.append(PlacedTable("b", 5, 8, "table_wise", ((3, 5),)))
    loads = rank_loads(tables, WORK, CLUSTER)
    assert loads[0].ids == 64 * 3 / 8
    assert loads[0].row_bytes == 64 * 3 / 8 * 16
    assert loads[0].pooled_bytes == 64 * 2 * 16  # a rank makes sums for the rows of all ranks, of both features
    assert loads[3].ids == 64 * 3 / 8 + 64
    assert sum(load.ids for load in loads) == 64 * 4


def test_a_rank_sends_its_ids_and_gets_the_sums_of_its_rows() -> None:
    assert id_bytes(WORK, CLUSTER) == (8 * 4 * 8 * 3 / 8, 8 * 4 * 8 * 4 / 8)
    tables = [PlacedTable("a", 8, 4, "table_wise", ((0, 8),)), PlacedTable("b", 8, 8, "table_wise", ((1, 8),))]
    assert received(WORK, tables, CLUSTER) == (8 * 64 * 3 / 8, 8 * 64 * 4 / 8)


def test_seconds_are_work_by_rate_and_efficiency() -> None:
    load = RankLoad(ids=10, row_bytes=120, gradient_bytes=120, pooled_bytes=50)
    assert lookup_seconds(load, DEVICE) == (120 + 50 + 80) / 500
    assert update_seconds(load, DEVICE) == (3 * 120 + 80) / 250
    assert reading_seconds(WORK, 8, DEVICE) == pytest.approx(8 * 5 * 0.01 / 2)
    assert head_seconds(WORK, 8, DEVICE) == 8 * 300 / 5000 + 8 * 50 * 4 / 1000
    assert optimizer_seconds(WORK, DEVICE) == 10 * 4 * 10 / 1000


def test_a_cpu_goes_by_what_each_id_took() -> None:
    cpu = replace(DEVICE, type="cpu", lookup_seconds=0.1, update_seconds=0.3)
    load = RankLoad(ids=10, row_bytes=120, gradient_bytes=120, pooled_bytes=50)
    assert (lookup_seconds(load, cpu), update_seconds(load, cpu)) == (1.0, 3.0)
    assert head_seconds(WORK, 8, cpu) == 8 * 300 / 5000
    assert reading_seconds(WORK, 8, cpu) == 8 * 5 * 0.01


def test_gradients_go_around_a_ring() -> None:
    assert all_reduce_seconds(800, Cluster(DEVICE, 1, 1)) == 0
    assert all_reduce_seconds(800, Cluster(DEVICE, 4, 4)) == 1200 / 50
    assert all_reduce_seconds(800, CLUSTER) == 1400 / 50 + 350 / 5


def test_a_gpu_hides_reading_and_the_gradients_way() -> None:
    assert step_seconds(PARTS, DEVICE) == pytest.approx(2 + 3 + 6 + 1 + 4 + 0.5 + 0.5)
    assert step_seconds(replace(PARTS, reading=100), DEVICE) == 100


def test_a_cpu_hides_nothing() -> None:
    assert step_seconds(PARTS, replace(DEVICE, type="cpu")) == 22
    assert PARTS.bottleneck == "head"


@given(rows=st.integers(1, 10**9), dim=st.sampled_from([4, 64, 128]), size=st.sampled_from([8, 16, 32]))
def test_more_ranks_never_take_longer_for_what_they_share(rows: int, dim: int, size: int) -> None:
    work = replace(WORK, ids_per_row={"a": 3.0}, features_of={"a": 2})
    parts = []
    for ranks in (size, 2 * size):
        cut = [(rank, rows // ranks + (rank < rows % ranks)) for rank in range(ranks)]
        table = PlacedTable("a", rows, dim, "row_wise", tuple(cut))
        parts.append(predict_step([table], work, Cluster(GPUS["h100"], ranks, 8))[0])
    few, many = parts
    assert many.reading < few.reading
    assert many.head < few.head
    assert many.lookup <= few.lookup
    assert many.optimizer == few.optimizer
