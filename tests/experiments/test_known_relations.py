"""The experiment trains, and its head is what it says: the true mixing of signals, at the FLOPs of the reference."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w
import torch

from experiments.known_relations import MIXING, PLACE, head_change, in_place_of_shared_bottom, main
from models.heads.shared_bottom import SharedBottomConfig
from tests.trainer.datasets import config_values, write_dataset
from trainer.config.load import load_config
from trainer.errors import ConfigError
from trainer.studies.equal_flops import cost_of

CONFIG = str(Path(__file__).parents[2] / "experiments" / "synthetic.toml")


def test_a_task_is_its_signals_mixed_by_known_weights() -> None:
    with in_place_of_shared_bottom(["like", "click"]):
        head = SharedBottomConfig(levels=((8,), (4,)), tower=()).build(16, ["click", "like"])
    features_BF = torch.randn(5, 16)
    signal_BC = head.signals(head.hidden(features_BF[:, None].expand(-1, 4, -1))).squeeze(2)
    for parameter in head.variation.parameters():
        parameter.data.zero_()

    expected_BT = signal_BC @ torch.tensor([MIXING["like"], MIXING["click"]]).T
    torch.testing.assert_close(head(features_BF), expected_BT)

    head.variation.bias.data.fill_(20.0)
    torch.testing.assert_close(head(features_BF), 1.5 * expected_BT)


def test_it_costs_what_the_head_of_the_config_costs() -> None:
    reference = load_config(CONFIG, [])
    change = head_change(CONFIG, [])
    with in_place_of_shared_bottom(["click", "like"]):
        cost = cost_of(load_config(CONFIG, [PLACE, change]))

    assert cost.training_flops == pytest.approx(cost_of(reference).training_flops, rel=0.012)
    assert cost != cost_of(load_config(CONFIG, [PLACE, change]))  # shared_bottom is itself again


def test_a_task_without_known_relations() -> None:
    with pytest.raises(ConfigError, match=r"^tasks\.share: .*choose from click, like"):
        head_change(CONFIG, ['tasks=[{name="share", kind="binary", label="click"}]'])


def test_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "train", 4_000, seed=1)
    write_dataset(tmp_path / "test", 1_000, seed=2)
    tasks = [
        {"name": "click", "kind": "binary", "label": "click"},
        {"name": "watch_time", "kind": "regression", "label": "watch"},
    ]
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(config_values(tmp_path, tasks=tasks, train={"samples": 3_968})))
    main([str(config), "--out", str(tmp_path / "runs"), "--seeds", "17"])

    *_, header, _, values = capsys.readouterr().out.splitlines()
    assert header == "|  | click NE | watch_time MSE |"
    click, watch_time = (float(cell) for cell in values.split("|")[2:4])
    assert click < 0.9
    assert watch_time < 2.0  # the variance of the label is 3
    assert pq.read_table(tmp_path / "runs" / "17-predictions").num_rows == 1_000
