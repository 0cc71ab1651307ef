"""The experiment trains, and its head is what it says: the true mixing of signals, at the FLOPs of the reference."""

import os
from pathlib import Path

import pytest
import torch

from data.synthetic.dataset import synthesise
from experiments.known_relations import MIXING, PLACE, head_change, in_place_of_shared_bottom, main
from models.heads.shared_bottom import SharedBottomConfig
from trainer.config.load import load_config
from trainer.errors import ConfigError
from trainer.studies.equal_flops import cost_of

CONFIG = str(Path(__file__).parents[2] / "experiments" / "synthetic.toml")


def test_a_task_is_its_signals_mixed_by_known_weights() -> None:
    with in_place_of_shared_bottom(["like", "click"]):
        head = SharedBottomConfig(levels=((8,), (4,)), tower=()).build(16, 2)
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


def test_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, "PYTHONPATH": str(Path(CONFIG).parents[1])})
    synthesise(Path("datasets/synthetic"), 20_000, 4_000, "engagement-consumption", processes=1)
    short = ["train.samples=20k", "evaluate.at_samples=[]", "data.global_batch_size=256"]
    main([CONFIG, "--out", "runs", "--seeds", "17", "--parallel", "1", "--set", *short])

    *_, header, _, values = capsys.readouterr().out.splitlines()
    assert header == "|  | click NE | like NE |"
    click, like = (float(cell) for cell in values.split("|")[2:4])
    assert click < 0.97
    assert like < 1.0
