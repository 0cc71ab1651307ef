"""What is said of gates is true of the forward pass that they were seen in."""

import math
from typing import Any

import pytest
import torch

from models.heads import HEADS
from models.heads.gated import FusionLevel
from trainer.evaluation.gate_stats import GateObserver, gate_entropies

TASKS = ["click", "watch"]


@pytest.mark.parametrize("name", ["adatt", "adatt_sp", "mmoe"])
def test_entropies_are_those_of_the_gates_before_the_update(name: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"experts": 3} if name == "mmoe" else {"task_experts": 2}
    head = HEADS[name](levels=((8,), (4,)), **sizes).build(6, TASKS)
    observer = GateObserver(head, TASKS, training=True)
    inputs: dict[int, torch.Tensor] = {}
    levels = [module for module in head.modules() if isinstance(module, FusionLevel)]
    for number, level in enumerate(levels):
        level.register_forward_pre_hook(lambda _, given, number=number: inputs.update({number: given[0]}))
    head(torch.randn(32, 6)).sum().backward()
    weights = observer.take()
    expected = []
    with torch.no_grad():
        for number, level in enumerate(levels):
            gate_BUE = level.gate(inputs[number]).double()
            entropy_U = -(gate_BUE * gate_BUE.clamp_min(1e-12).log()).sum(dim=2).mean(dim=0)
            seen_U = torch.tensor([len(seen) for seen in level.plan.sees])
            expected += (entropy_U / seen_U.log()).tolist()
        for parameter in head.parameters():  # a large step
            parameter += 0.5
    found = gate_entropies(observer, weights)
    assert all(math.isfinite(value) for value in expected)
    assert list(found.values()) == pytest.approx(expected, abs=1e-6)
