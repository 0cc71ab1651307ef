"""`train.patience` ends a training that no longer gains; `--checkpoint best:TASK` names where a task was best."""

from pathlib import Path
from typing import Any

import pytest

from tests.ranks import run_on_ranks
from tests.trainer.datasets import make_config
from tests.trainer.training import evaluation_records, train_or_explain
from trainer.checkpoint.selection import checkpoint_name
from trainer.checkpoint.storage import list_folders
from trainer.distributed.world import World
from trainer.errors import CheckpointError
from trainer.milestones import milestones_in_vain
from trainer.run.directory import RunDirectory
from trainer.run.records import Evaluation, read_evaluations

NES = {"click": (0.9, 0.8, 0.8, 0.81, 0.82), "like": (1.0, 1.1, None, 0.99, 1.2)}


def _evaluate(world: World, run: str, checkpoint: str) -> list[dict[str, Any]]:
    return evaluation_records(run, checkpoint, None, world)


def records(nes: dict[str, tuple[float | None, ...]]) -> list[Evaluation]:
    return [
        Evaluation(samples=100 * place, task=task, kind="binary", examples=1, ne=ne)
        for task, values in nes.items()
        for place, ne in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("tasks", "so_far", "in_vain"),
    [
        (("click",), 2, 0),
        (("click",), 3, 1),  # an equal value is no improvement
        (("click",), 5, 3),
        (("click", "like"), 4, 0),  # one task improves
        (("click", "like"), 5, 1),
        (("click",), 0, 0),
    ],
)
def test_milestones_in_vain(tasks: tuple[str, ...], so_far: int, in_vain: int) -> None:
    assert milestones_in_vain(records({task: NES[task][:so_far] for task in tasks})) == in_vain


def test_values_of_columns_do_not_count() -> None:
    of_tab = Evaluation(samples=300, task="click", kind="binary", examples=1, ne=0.1, by="tab", value=1)
    assert milestones_in_vain([*records({"click": (0.9, 0.9)}), of_tab]) == 1


def test_a_run_ends_where_nothing_improves(dataset: Path, tmp_path: Path) -> None:
    """With learning rates that change no weight; a further start ends at once; the best checkpoint has a name."""
    config = make_config(
        dataset,
        run={"dir": str(tmp_path / "run")},
        optimizer={"dense": {"learning_rate": 1e-30}, "sparse": {"learning_rate": 1e-30}},
        evaluate={"at_samples": [640, 1280, 1920, 2560]},
        train={"samples": 8000, "patience": 2},
    )
    for world_size in (1, 2):
        assert set(run_on_ranks(world_size, train_or_explain, config)) == {None}
        run = RunDirectory(tmp_path / "run")
        evaluated = read_evaluations(run.evaluations)
        assert milestones_in_vain(evaluated) == 2
        assert evaluated[-1].samples == int(list_folders(run.checkpoints)[-1]) == 1920

    values = {record.samples: record.main for record in evaluated if record.task == "click"}
    best = min(values, key=lambda samples: (values[samples], samples))
    assert checkpoint_name("best:click", run, config) == str(best)
    (of_best,) = run_on_ranks(1, _evaluate, str(run.path), "best:click")
    assert next(record["ne"] for record in of_best if record["task"] == "click") == pytest.approx(values[best])

    with pytest.raises(
        CheckpointError, match=r"--checkpoint best:clik: no task 'clik' in .*; there are watch, click, rare"
    ):
        checkpoint_name("best:clik", run, config)
