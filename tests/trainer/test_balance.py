"""Every way to balance the tasks trains alike on any ranks, goes on to the bit, and updates the tables once a step."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.balancers import METHODS
from models.balancers.balancer import Balancer
from models.balancers.by_losses import DwaConfig
from models.balancers.gate import GradientGate
from tests.models.balancers.tasks import binary_tasks
from tests.ranks import run_on_ranks
from tests.trainer.datasets import config_values, copy_with_overflows, make_config, nothing_to_measure
from tests.trainer.training import train_or_explain
from trainer.config.load import parse_config
from trainer.config.run_config import Config
from trainer.distributed.world import World
from trainer.evaluation.evaluate_run import evaluate_run
from trainer.run.directory import RunDirectory
from trainer.run.evaluations import read_evaluations
from trainer.run.jsonl import read_records
from trainer.run.matrices import Conflicts
from trainer.run.records import COSINE, LENGTH, WEIGHT, Evaluation
from trainer.train import train

SHORT: dict[str, dict[str, Any]] = {
    "dwa": {"window": 200},
    "gradnorm": {"first": 200},
    "rotograd": {"burn_in": 5},
    "constant": {"observe": True},
}
"""What has begun after a few steps of the tests."""
SHARED_BOTTOM = {"head": "shared_bottom", "levels": [[16]], "tower": [8]}
MODELS = {"rotograd": SHARED_BOTTOM}


def _train(world: World, config: Config) -> list[dict[str, Any]]:
    train(config, world)
    return read_records(RunDirectory(config.run.dir).train_log)


def _train_all(world: World, configs: dict[str, Config]) -> dict[str, list[dict[str, Any]]]:
    return {method: _train(world, config) for method, config in configs.items()}


def _evaluate(world: World, run: str) -> list[Evaluation]:
    return evaluate_run(run, "latest", None, world)


def _config(dataset: Path, folder: Path, method: str, samples: int = 1280, **sections: Any) -> Config:
    balance = {"method": method, "every": 1, **SHORT.get(method, {}), **sections.pop("balance", {})}
    model = sections.pop("model", MODELS.get(method))
    values = config_values(dataset, run={"dir": str(folder)}, train={"samples": samples}, balance=balance, **sections)
    return parse_config(values if model is None else {**values, "model": model}, "test")


def _all_methods(
    size: int, dataset: Path, folder: Path, samples: int = 1280, **samples_of: int
) -> dict[str, list[dict[str, Any]]]:
    """The records of every method, one after the other in the same processes."""
    known = {"data": {"repeat": True}, **nothing_to_measure(dataset)}
    configs = {
        method: _config(dataset, folder / method, method, samples_of.get(method, samples), **known)
        for method in METHODS
    }
    return run_on_ranks(size, _train_all, configs, timeout_s=900)[0]


def _numbers(records: list[dict[str, Any]], begin: str) -> torch.Tensor:
    keys = sorted(key for key in records[0] if key.startswith(begin))
    return torch.tensor([[record[key] for key in keys] for record in records], dtype=torch.float64)


def test_weights_and_losses_do_not_depend_on_ranks(dataset: Path, tmp_path: Path) -> None:
    """MGDA for 100 batches: its solver leaves tasks out, and a rounding must not move that decision."""
    one, *others = (_all_methods(size, dataset, tmp_path / str(size), mgda=6400) for size in (1, 2, 4))
    for found_of in others:
        for method, begin in itertools.product(METHODS, ("loss", WEIGHT)):
            expected, found = _numbers(one[method], begin), _numbers(found_of[method], begin)
            message = f"{begin} of {method}: {{}}".format
            torch.testing.assert_close(found[:5], expected[:5], rtol=1e-6, atol=1e-7, msg=message)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=message)


def test_a_resumed_run_is_the_uninterrupted_one(dataset: Path, tmp_path: Path) -> None:
    whole = _all_methods(1, dataset, tmp_path / "whole")
    _all_methods(1, dataset, tmp_path / "halves", samples=640)
    halves = _all_methods(1, dataset, tmp_path / "halves")
    for method, begin in itertools.product(METHODS, ("loss", WEIGHT, COSINE)):
        assert torch.equal(_numbers(halves[method], begin), _numbers(whole[method], begin)), (method, begin)


def test_cosines_at_evaluations_are_means_since_the_one_before(dataset: Path, tmp_path: Path) -> None:
    """Of all steps, where every step is logged; and the same after a resume in between, or at an evaluation."""
    files: dict[str, dict[int, Conflicts]] = {}
    for name, ends in {"whole": [1280], "in parts": [640, 960, 1280]}.items():
        for end in ends:
            config = _config(dataset, tmp_path / name, "constant", samples=end, evaluate={"at_samples": [640]})
            records = run_on_ranks(1, _train, config)[0]
        run = RunDirectory(config.run.dir)
        files[name] = {at: Conflicts.from_json(run.conflicts_file(at).read_text()) for at in (640, 1280)}
        assert run.conflicts_file(1280).with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    assert files["in parts"] == files["whole"]
    for samples, record in files["whole"].items():
        since = samples - 640
        of_leg = [each for each in records if since < each["samples"] <= samples]
        assert (record.since, record.steps, record.tasks) == (since, 10, ["watch", "click", "rare"])
        cosines = [each[f"{COSINE}/watch/rare"] for each in of_leg]
        assert record.cosines[0][2] == record.cosines[2][0] == pytest.approx(sum(cosines) / 10)
        assert record.below_zero[0][2] == sum(cosine < 0 for cosine in cosines) / 10
        assert record.cosines[1][1] is None

    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    scalars = set(board.Tags()["scalars"])
    assert {f"balance/{WEIGHT}/click", f"balance/{LENGTH}/click", f"balance/{COSINE}/watch/rare"} <= scalars
    assert not any(tag.startswith(("train/balance", "train/gradient")) for tag in scalars)
    assert {event.step for event in board.Images("conflicts")} >= {640, 1280}


def test_a_device_that_runs_behind_the_host_decides_what_is_kept() -> None:
    """The host commits before it knows the verdict on a GPU: NaN must not stay in a method's state."""
    config = DwaConfig(window=100)
    balancer = Balancer(config, binary_tasks("ab"), global_batch_size=4, seed=1)
    ones_BT = torch.ones(4, 2)
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    for loss, unsound in ((math.nan, 1.0), (2.0, 0.0)):
        balancer.begin(0)
        losses_T = torch.tensor([1.0, loss], requires_grad=True)
        balancer(losses_T, ones_BT, ones_BT)
        balancer.commit(torch.tensor(unsound))
        now = balancer.state_dict()
        changed = [name for name in now if not torch.allclose(now[name], before[name], equal_nan=True)]
        assert changed == ([] if unsound else ["method.sums_2T"])


def test_looking_at_gradients_changes_nothing(dataset: Path, tmp_path: Path) -> None:
    plain = make_config(dataset, run={"dir": str(tmp_path / "plain")}, train={"samples": 1280})
    observed = _config(dataset, tmp_path / "observed", "constant")
    one, other = (run_on_ranks(1, _train, config)[0] for config in (plain, observed))
    torch.testing.assert_close(_numbers(one, "loss"), _numbers(other, "loss"), rtol=1e-6, atol=0)
    cosines = _numbers(other, COSINE)
    assert cosines.shape[1] == 3
    assert ((cosines.abs() <= 1) & (cosines != 0)).all()


def test_small_heads_change_what_is_shared(dataset: Path, tmp_path: Path) -> None:
    runs = []
    for weight in (0.0, 1.0):
        balance = {"weight": weight, "hidden": 2, "at": "trunk"}
        config = _config(dataset, tmp_path / str(weight), "small_heads", balance=balance, model=SHARED_BOTTOM)
        runs.append(_numbers(run_on_ranks(1, _train, config)[0], "loss"))
    assert torch.equal(runs[0][0], runs[1][0])
    assert (runs[0][1:] != runs[1][1:]).all()


def test_rotations_are_part_of_a_trained_model(dataset: Path, tmp_path: Path) -> None:
    balance = {"learning_rate": 0.5, "every": 2}
    config = _config(dataset, tmp_path / "run", "rotograd", balance=balance)
    run_on_ranks(2, _train, config)
    at_the_end = read_evaluations(RunDirectory(config.run.dir).evaluations)
    again = run_on_ranks(2, _evaluate, config.run.dir)[0]
    assert [(record.log_loss, record.mse) for record in again] == [
        (record.log_loss, record.mse) for record in at_the_end
    ]

    # Towers of the trained run read the turned trunk, so they are no beginning for another run.
    other = _config(dataset, tmp_path / "other", "rotograd", init={"from": config.run.dir})
    assert "set init.head = false" in str(run_on_ranks(1, train_or_explain, other)[0])
    other = _config(dataset, tmp_path / "other", "rotograd", init={"from": config.run.dir, "head": False})
    assert run_on_ranks(1, train_or_explain, other)[0] is None


@pytest.mark.parametrize("method", ["pcgrad", "famo", "gradnorm"])
def test_a_batch_that_is_left_out_leaves_no_trace_in_the_state(dataset: Path, tmp_path: Path, method: str) -> None:
    broken = copy_with_overflows(dataset, tmp_path / "data", [5])
    config = _config(broken, tmp_path / "run", method, samples=8000, **nothing_to_measure(broken))
    skipping = config.model_copy(update={"train": config.train.model_copy(update={"on_non_finite": "skip"})})
    records = run_on_ranks(1, _train, skipping)[0]
    assert _numbers(records, WEIGHT).isfinite().all()


def test_the_gate_hands_on_what_it_is_told_once() -> None:
    gate = GradientGate()
    x_BF = torch.arange(6.0).view(3, 2).requires_grad_()
    calls: list[torch.Tensor] = []
    shared_BF = x_BF * 1
    shared_BF.register_hook(calls.append)
    gate.open()
    y_BF = torch.cat([gate(part) for part in shared_BF.split(2)])
    losses_T = torch.stack([y_BF.sum(), (2 * y_BF[:1]).sum()])

    gradient_TBF = gate.gradients(losses_T)
    assert gradient_TBF.tolist() == [[[1, 1]] * 3, [[2, 2], [0, 0], [0, 0]]]
    gate.hand_on(torch.full((3, 2), 7.0))
    losses_T.sum().backward()
    assert x_BF.grad is not None
    assert x_BF.grad.tolist() == [[7, 7]] * 3
    assert len(calls) == 1  # what is shared, tables above all, has one backward pass however many tasks there are
