"""The same config is the same algorithm on any number of ranks, under any plan; a run repeats to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values, make_config
from tests.trainer.training import evaluation_records
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.train import train


def _train(world: World, config: Config) -> list[dict[str, Any]]:
    train(config, world)
    return read_records(RunDirectory(config.run.dir).train_log)


def _run(dataset: Path, folder: Path, size: int, sharding: str = "table_wise", **sections: Any) -> list[dict[str, Any]]:
    sections.setdefault("train", {"samples": 6400})
    config = make_config(dataset, run={"dir": str(folder)}, sharding={"allow": [sharding]}, **sections)
    return run_on_ranks(size, _train, config)[0]


def _losses(records: list[dict[str, Any]]) -> torch.Tensor:
    return torch.tensor([record["loss"] for record in records], dtype=torch.float64)


@pytest.fixture(scope="module")
def one_rank(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("one") / "run"
    return folder, _run(dataset, folder, 1)


@pytest.mark.parametrize(("size", "sharding"), [(2, "table_wise"), (2, "row_wise"), (4, "table_wise"), (4, "row_wise")])
def test_losses_of_global_batches_do_not_depend_on_ranks_or_plan(
    dataset: Path, tmp_path: Path, one_rank: tuple[Path, list[dict[str, Any]]], size: int, sharding: str
) -> None:
    expected, found = _losses(one_rank[1]), _losses(_run(dataset, tmp_path / "run", size, sharding))
    assert len(expected) == len(found) == 100
    torch.testing.assert_close(found[:5], expected[:5], rtol=1e-6, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_training_learns(one_rank: tuple[Path, list[dict[str, Any]]]) -> None:
    losses = _losses(one_rank[1])
    assert losses[-10:].mean() < 0.8 * losses[:10].mean()


@pytest.mark.parametrize("size", [1, 2])
def test_two_runs_on_the_same_ranks_are_bit_identical(dataset: Path, tmp_path: Path, size: int) -> None:
    options = {"model": {"head": "adatt", "dropout": 0.2}, "train": {"samples": 1280}}
    one, two = (_run(dataset, tmp_path / name, size, **options) for name in ("a", "b"))
    assert torch.equal(_losses(one), _losses(two))
    first, second = (_evaluations(tmp_path / name) for name in ("a", "b"))
    assert first == second


def _evaluations(run: Path) -> list[str]:
    """Every evaluated number, as text to the last digit."""
    return [json.dumps(_timeless(record)) for record in read_records(run / "evaluations.jsonl")]


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_one_checkpoint_evaluates_alike_on_any_ranks(one_rank: tuple[Path, list[dict[str, Any]]], size: int) -> None:
    folder, _ = one_rank
    expected = [_timeless(record) for record in read_records(folder / "evaluations.jsonl")]
    found = run_on_ranks(size, _evaluate, str(folder))[0]
    assert [record["task"] for record in found] == ["watch", "click", "rare"]
    for one, other in zip(expected, found, strict=True):
        assert one["examples"] == other["examples"] == (667 if one["task"] == "rare" else 1001)
        keys = ("mse",) if one["kind"] == "regression" else ("ne", "auc", "log_loss", "calibration")
        assert [one[key] for key in keys] == pytest.approx([other[key] for key in keys], rel=1e-6)


def _evaluate(world: World, folder: str) -> list[dict[str, Any]]:
    return evaluation_records(folder, "latest", None, world)


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_training_goes_on_as_if_it_had_not_been_evaluated(dataset: Path, tmp_path: Path, sharding: str) -> None:
    options = {"model": {"head": "adatt", "dropout": 0.1}, "train": {"samples": 1280}}
    plain = _run(dataset, tmp_path / "plain", 2, sharding, **options)
    evaluated = _run(dataset, tmp_path / "evaluated", 2, sharding, evaluate={"at_samples": ["256", 640]}, **options)
    assert torch.equal(_losses(plain), _losses(evaluated))


@pytest.mark.parametrize(
    ("before", "after", "sharding"),
    [
        (2, 2, "table_wise"),
        (4, 4, "table_wise"),
        (2, 1, "table_wise"),
        (1, 4, "table_wise"),
        (2, 2, "row_wise"),
        (2, 4, "row_wise"),
        (2, 2, "table_row_wise"),
    ],
)
def test_resumed_equals_uninterrupted(dataset: Path, tmp_path: Path, before: int, after: int, sharding: str) -> None:
    whole = _run(dataset, tmp_path / "whole", before, train={"samples": 1280})
    resumed = _run(dataset, tmp_path / "parts", before, train={"samples": 640})
    assert len(resumed) == 10
    rest = _run(dataset, tmp_path / "parts", after, sharding, train={"samples": 1280})
    if (before, "table_wise") == (after, sharding):
        assert torch.equal(_losses(whole), _losses(rest))
    else:
        torch.testing.assert_close(_losses(rest), _losses(whole), rtol=1e-5, atol=0)


HEADS: dict[str, dict[str, Any]] = {
    "shared_bottom": {},
    "single_task": {},
    "cross_stitch": {},
    "mmoe": {"experts": 3},
    "ml_mmoe": {"experts": 3},
    "ple": {"task_experts": [1, 2, 1], "shared_experts": 1},
    "adatt_sp": {"task_experts": [1, 2, 1]},
    "adatt": {"task_experts": 2, "shared_experts": 1},
    "mtan": {},
    "soft_ordering": {"levels": [[8], [8]]},
    "sluice": {"levels": [[8], [8]]},
    "snr": {"experts": 3},
    "dselect_k": {"experts": 3},
    "aitm": {"chain": ["click", "rare"]},
    "adashare": {"levels": [[8], [8]], "warmup_samples": 64, "block_samples": 64, "halving_samples": 64},
    "learning_to_branch": {"experts": 3, "warmup_samples": 64, "halving_samples": 64},
    "pepnet": {"gate_features": ["user", "age"], "gate_width": 8},
    "stem": {"task_experts": [1, 2, 1]},
    "mrn": {"prior": 0.1, "prior_samples": 100},
    "branched": {"tree": [[["rare", "click"], ["watch"]], [["rare"], ["click"], ["watch"]]]},
}


def test_every_head_trains_alike_on_any_ranks(dataset: Path, tmp_path: Path) -> None:
    one, *others = (_every_head(dataset, tmp_path / str(size), size) for size in (1, 2, 4))
    for found in others:
        for name, losses in one.items():
            assert len(losses) == 6
            torch.testing.assert_close(found[name], losses, rtol=1e-5, atol=0, msg=name)


def test_every_head_goes_on_to_the_bit(dataset: Path, tmp_path: Path) -> None:
    whole = _every_head(dataset, tmp_path / "whole", 1)
    _every_head(dataset, tmp_path / "parts", 1, samples=192)
    parts = _every_head(dataset, tmp_path / "parts", 1)
    for name, losses in whole.items():
        assert torch.equal(parts[name], losses), name


def _every_head(dataset: Path, folder: Path, size: int, samples: int = 384) -> dict[str, torch.Tensor]:
    """The losses of each head, one after the other in the same processes."""
    configs = {}
    for name, keys in HEADS.items():
        values = config_values(dataset, run={"dir": str(folder / name)}, train={"samples": samples})
        values["model"] = {"head": name, "levels": [[16], [8]], "tower": [8], **keys}
        configs[name] = parse_config(values, name)
    return run_on_ranks(size, _train_all, configs, timeout_s=600)[0]


def _train_all(world: World, configs: dict[str, Config]) -> dict[str, torch.Tensor]:
    return {name: _losses(_train(world, config)) for name, config in configs.items()}
