"""`adatt bench balance` times what it says: every method, with what limits it beside it."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import benchmarks.balance
from benchmarks.balance import CONSTANT, METHODS, OBSERVED, Setting, Taken
from benchmarks.machine import Product
from trainer.build_model import build_balancer
from trainer.cli.benchmark_tables import balance_bench_table


def _bench(*options: str) -> list[dict[str, Any]]:
    call = [sys.executable, "-m", "trainer", "bench", "balance", "--rounds", "1", "--batch", "8", "--json", *options]
    found = subprocess.run(call, capture_output=True, text=True, check=True, timeout=300)
    assert found.stderr == ""
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_methods_are_timed_beside_their_limits() -> None:
    results = _bench(
        "--head", "adatt", "--tasks", "3", "--method", "famo", "--method", "pcgrad", "--method", "graddrop"
    )
    assert [result["method"] for result in results] == [CONSTANT, OBSERVED, "famo", "pcgrad", "graddrop"]
    for result in results:
        assert (result["head"], result["tasks"], result["batch"], result["threads"]) == ("adatt", 3, 8, 1)
        assert min(result[key] for key in ("step_seconds", "of_constant", "cpu_of_constant")) > 0
        takes_gradients = result["method"] not in (CONSTANT, "famo")
        assert (result["limit_of_constant"] > 1) == takes_gradients
        assert (result["naive_of_constant"] is not None) == takes_gradients
        assert (result["own_seconds"] is not None) == (result["method"] == "famo")
    assert balance_bench_table(results).row_count == len(results)


def test_every_method_has_a_config_that_the_trainer_takes() -> None:
    for name in (*METHODS, OBSERVED):
        config = benchmarks.balance._config(Setting("shared_bottom", 2), name)
        assert config.balance.method == name.split(",")[0]
        assert (build_balancer(config, 8) is None) == (name == CONSTANT)


def test_ratios_are_to_the_constant_steps_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that gets slower all the time, a method of the same cost has the ratio 1."""
    clock = itertools.count(10)
    costs = {"base": 1, "same": 1, "double": 2}

    def time(step: Callable[[], str], _: object) -> Taken:
        slowness = next(clock)
        return Taken(costs[step()] * slowness, 3.0 * costs[step()] * slowness)

    monkeypatch.setattr(benchmarks.balance, "_time", time)
    steps: dict[str, Callable[[], object]] = {"same": lambda: "same", "double": lambda: "double"}
    device = torch.device("cpu")
    medians, _ = benchmarks.balance._timed(lambda: "base", steps, Product(device), device, rounds=3)
    for name in steps:
        assert medians[name][1:] == pytest.approx([costs[name]] * 2)
