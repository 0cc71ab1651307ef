"""`adatt plan`: the plan that a training would get, its contract as JSON, and what it says to wrong input."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from benchmarks.rates import Rates
from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values, make_config, write_dataset
from trainer.build_model import build_model
from trainer.cli.app import run
from trainer.config.load import load_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.planning.cpu import cpu_device, shape_of
from trainer.planning.devices import GPUS
from trainer.planning.plan import Size, TooBig, size_training
from trainer.planning.published import check_published
from trainer.planning.topology import Cluster
from trainer.planning.workload import activation_bytes, workload_of
from trainer.sharding.memory import host_memory
from trainer.sharding.options import FusedSharder
from trainer.sharding.padding import rows_held
from trainer.sharding.plan import Placement, Ranks, placements, plan_tables

INDUSTRIAL = "configs/industrial.toml"
RATES = Rates(
    head_flops=1e11,
    copied=1e10,
    exchanged=1e9,
    lookup_seconds=1e-7,
    update_seconds=5e-7,
    processes=2,
    threads=1,
)


def _sized(size: int, device: str = "h100") -> Size | TooBig:
    config = load_config(INDUSTRIAL)
    return size_training(config, workload_of(config, []), Cluster(GPUS[device], size, 8))


def _placed_by_training(world: World, config: Config) -> list[Placement]:
    ranker = build_model(config, torch.device("meta"))
    sharder = FusedSharder(config.tables_held, config.sharding, config.optimizer.sparse, config.data.global_batch_size)
    plan = plan_tables(
        ranker, sharder, world, Ranks(world.size, world.local_size, "cpu"), config.data.global_batch_size // world.size
    )
    return placements(plan, sharder, rows_held(config.tables_held, world.size, world.local_size))


def test_it_is_the_plan_that_a_training_gets() -> None:
    config = load_config("configs/bench-embeddings.toml")
    device = cpu_device(RATES, 2, host_memory())
    result = size_training(config, workload_of(config, ["20"]), Cluster(device, 2, 2))
    assert isinstance(result, Size)
    assert result.placements == run_on_ranks(2, _placed_by_training, config)[0]


def test_embeddings_of_tasks_are_planned() -> None:
    """Two for each id: of the only task, and the shared one."""
    stem = load_config("configs/bench-embeddings.toml", ['model={head="stem"}'])
    adatt = stem.model_copy(update={"model": load_config(INDUSTRIAL).model})
    cluster = Cluster(cpu_device(RATES, 2, host_memory()), 2, 2)
    sizes = []
    for config in (stem, adatt):
        work = workload_of(config, ["20"])
        result = size_training(config, work, cluster)
        assert isinstance(result, Size)
        sizes.append((work.inputs - work.dense_width, [placed.dim for placed in result.placements]))
    assert sizes[0] == (2 * sizes[1][0], [2 * dim for dim in sizes[1][1]])
    result = size_training(stem, workload_of(stem, ["20"]), cluster)
    assert isinstance(result, Size)
    assert result.placements == run_on_ranks(2, _placed_by_training, stem)[0]


def test_three_billion_rows_on_sixteen_gpus() -> None:
    config = load_config(INDUSTRIAL)
    assert len(config.tables) == 60
    assert sum(table.rows for table in config.tables) == pytest.approx(3e9, rel=1e-3)
    assert {table.dim for table in config.tables} == {64, 96, 128}

    begin = time.monotonic()
    result = _sized(16)
    assert time.monotonic() - begin < 60  # some 2 s; a planner that tries all plans takes for ever
    assert isinstance(result, Size)
    assert result.fits
    assert sum(memory.tables for memory in result.memory) == sum(placed.bytes for placed in result.placements)
    assert set(result.hours) == {"10B", "30B", "70B"}
    assert result.hours["70B"] == pytest.approx(7 * result.hours["10B"])


def test_a_sweep_is_monotone_where_it_must_be() -> None:
    few, many = _sized(16), _sized(32)
    assert isinstance(few, Size)
    assert isinstance(many, Size)
    assert many.checkpoint_bytes == few.checkpoint_bytes
    assert sum(memory.tables for memory in many.memory) == sum(memory.tables for memory in few.memory)
    assert many.memory[0].activations < few.memory[0].activations
    assert many.parts.head < few.parts.head
    assert many.parts.reading < few.parts.reading
    assert many.samples_per_second > few.samples_per_second


def test_what_is_too_big_says_by_how_much_and_what_would_fit() -> None:
    result = _sized(8)
    assert isinstance(result, TooBig)
    assert "GiB more than 8 ranks of 'h100' have" in result.lack
    assert any("--world-size 16" in way for way in result.ways)
    assert any("of the rows" in way for way in result.ways)
    assert isinstance(_sized(16), Size)  # as it says


def test_tables_in_the_hosts_memory_are_advised_where_they_fit() -> None:
    config = load_config(INDUSTRIAL)
    cluster = Cluster(GPUS["h100"], 8, 8)
    found = size_training(config, workload_of(config, []), cluster)
    assert isinstance(found, TooBig)
    assert any(way.startswith('tables.kernel = "fused_uvm_caching"') for way in found.ways)
    tables = tuple(table.model_copy(update={"kernel": "fused_uvm_caching"}) for table in config.tables)
    in_hosts = config.model_copy(update={"tables": tables})
    result = size_training(in_hosts, workload_of(in_hosts, []), cluster)
    assert isinstance(result, Size)
    weights = sum(4 * table.rows * table.dim for table in tables)
    assert sum(memory.tables for memory in result.memory) == pytest.approx(0.2 * weights, rel=1e-3)
    assert {placement.kernel for placement in result.placements} == {"fused_uvm_caching"}
    assert sum(result.host_copy) > weights


def test_float16_is_advised_where_it_fits() -> None:
    config = load_config(INDUSTRIAL)
    cluster = Cluster(GPUS["h100"], 8, 8)
    found = size_training(config, workload_of(config, []), cluster)
    assert isinstance(found, TooBig)
    assert 'tables.dtype = "float16"' in found.ways
    tables = tuple(table.model_copy(update={"dtype": "float16"}) for table in config.tables)
    halved = config.model_copy(update={"tables": tables})
    result = size_training(halved, workload_of(halved, []), cluster)
    assert isinstance(result, Size)
    assert sum(memory.tables for memory in result.memory) == sum(2 * table.rows * table.dim for table in tables)


def test_published_trainings_are_predicted() -> None:
    """The run whose launches are fitted, then the others; docs/benchmarks.md tells these errors."""
    fitted, *others = check_published()
    assert abs(fitted.error) < 0.02
    assert all(abs(checked.error) < 0.25 for checked in others if not checked.run.note)


def test_ids_and_bytes_come_from_the_data(tmp_path: Path) -> None:
    write_dataset(tmp_path / "train", 1000, seed=1)
    work = workload_of(make_config(tmp_path), [])
    assert work.ids_per_row["user"] == 1
    assert 1 + 1 < work.ids_per_row["video"] < 1 + 2  # one video, and a list of 0 to 3
    assert 0 < work.bytes_per_row < 200
    assert work.assumptions == ()
    assert workload_of(make_config(tmp_path), ["recent=7"]).ids_per_row["video"] == 8


def test_activations_are_those_that_autograd_keeps() -> None:
    config = load_config("configs/bench-embeddings.toml")
    assert activation_bytes(config.model, 100, ["click"]) == 4 * (100 + 64)  # its input, and its only layer's output


def test_this_machine_is_measured_as_the_config_needs_it() -> None:
    config = load_config("configs/bench-embeddings.toml")
    shape = shape_of(config, workload_of(config, ["20"]))
    assert shape.features_of_tables == (1, 1, 2, 2)  # of 12 tables with one feature, and 14 with two
    assert (shape.dim, shape.ids_per_bag, shape.bags, shape.columns.width) == (64, 20, 4096, 40 * 64)


def _command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["plan", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _industrial(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return _command(capsys, INDUSTRIAL, *arguments)


def test_json_keeps_its_contract(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "new" / "sweep.png"
    code, out, _ = _industrial(capsys, "--world-size", "8,16", "--device", "h200", "--json", "--out", str(picture))
    records: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [record["world_size"] for record in records] == [8, 16]
    assert picture.read_bytes().startswith(b"\x89PNG")

    for record in records:
        assert record["device"] == "h200"
        assert record["fits"]
        assert len(record["tables"]) == 60
        assert {table["kernel"] for table in record["tables"]} == {"fused"}
        assert len(record["ranks"]) == record["world_size"]
        assert record["samples_per_second"] == pytest.approx(65536 / record["step_seconds"])
        assert record["bottleneck"] in record["parts"]
        assert set(record["hours"]) == {"10B", "30B", "70B"}
        assert record["published"]
    assert set(records[0]) == set(records[1])


def test_a_number_that_does_not_fit_is_a_line_of_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _industrial(capsys, "--world-size", "8,16", "--json")
    first, second = (json.loads(line) for line in out.splitlines())
    assert code == 0
    assert (first["fits"], second["fits"]) == (False, True)
    assert first["lack"]
    assert first["ways"]
    assert first.keys() == second.keys()


def test_people_get_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _industrial(capsys, "--world-size", "16")
    assert code == 0
    for words in ("table_row_wise", "hours to 70B", "MFLOP/sample", "checkpoint", "published", "not a measurement"):
        assert words in out
    code, out, _ = _industrial(capsys, "--world-size", "8,16")
    assert "by number of ranks" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--world-size", "8"], "GiB more than 8 ranks of 'h100'"),
        (["--world-size", "16", "--set", 'sharding.memory="40GB"'], "what would fit: a larger sharding.memory, or "),
        (["--world-size", "48"], "does not divide data.lanes = 128"),
        (["--world-size", "0"], "--world-size '0'"),
        (["--world-size", "8,x"], "--world-size '8,x'"),
        (["--world-size", "16", "--device", "b200"], "unknown device 'b200'; choose from h100, h200, a100, cpu"),
        (["--world-size", "16", "--nodes", "3"], "not divisible by --nodes 3"),
        (["--world-size", "16", "--ids-per-row", "nope=3"], "no sparse feature 'nope'"),
        (["--world-size", "16", "--ids-per-row", "0"], "write N or FEATURE=N"),
        (["--world-size", "16", "--set", 'sharding.allow=["table_wise"]'], "table 'user' takes 96.9 GiB"),
        (["--world-size", "8", "--device", "cpu", "--set", "train.precision=bf16"], "needs a GPU"),
    ],
)
def test_wrong_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    code, out, err = _industrial(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


def test_a_column_that_is_not_in_the_data_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "train", 1000, seed=1)
    values = config_values(tmp_path)
    values["features"]["dense"].append({"column": "nowhere"})
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(values))
    code, _, err = _command(capsys, str(path), "--world-size", "2", "--nodes", "1")
    assert code == 2
    assert "no column 'nowhere'" in err
