"""Configs of the heads, and the weights that a new head has."""

from typing import Any

import pytest
import torch
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

from models.heads import AnyHeadConfig
from models.heads.adatt import AdaTTConfig, AdaTTSpConfig
from models.heads.base import HeadConfig
from models.heads.ple import PLEConfig
from models.layers import GroupedLinear
from tests.models.heads import FEATURES, FIXED, HEADS, Case, build, cases, ids, many, names, units_of_experts


@pytest.mark.parametrize("kind", [PLEConfig, AdaTTSpConfig, AdaTTConfig], ids=ids)
@pytest.mark.parametrize(("task_experts", "tasks"), [((1, 2, 3), 2), ((2,), 2), ((1, 1), 1)])
def test_numbers_that_do_not_fit_the_tasks_are_refused(
    kind: type[HeadConfig], task_experts: tuple[int, ...], tasks: int
) -> None:
    config = kind.model_validate({"task_experts": task_experts})
    for build_head in (config.build, config.build_on_meta):
        with pytest.raises(ValueError, match=rf"task_experts = \[.*\] must be .* for each of {tasks} tasks"):
            build_head(FEATURES, names(tasks))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head": "mixture"}, "mixture"),
        ({}, "head"),
        *(({"head": ids(kind), "levels": []}, "levels") for kind in HEADS),
        ({"head": "adatt", "levels": [[]]}, "levels"),
        ({"head": "adatt", "levels": [[0]]}, "levels"),
        ({"head": "ple", "levels": [4]}, "levels"),
        ({"head": "adatt", "shared_experts": -1}, "shared_experts"),
        ({"head": "ple", "shared_experts": -1}, "shared_experts"),
        ({"head": "adatt_sp", "shared_experts": 1}, "shared_experts"),
        ({"head": "mmoe", "shared_experts": 1}, "shared_experts"),
        ({"head": "mmoe", "task_experts": 1}, "task_experts"),
        ({"head": "ml_mmoe", "task_experts": 1}, "task_experts"),
        ({"head": "shared_bottom", "task_experts": 1}, "task_experts"),
        ({"head": "shared_bottom", "experts": 2}, "experts"),
        ({"head": "single_task", "experts": 2}, "experts"),
        ({"head": "cross_stitch", "experts": 2}, "experts"),
        ({"head": "ple", "experts": 2}, "experts"),
        ({"head": "ple", "native_fusion": True}, "native_fusion"),
        ({"head": "adatt", "native_fusion": "often"}, "native_fusion"),
        ({"head": "mmoe", "experts": 0}, "experts"),
        ({"head": "ml_mmoe", "experts": 1025}, "experts"),
        ({"head": "adatt_sp", "task_experts": 0}, "task_experts"),
        ({"head": "adatt", "task_experts": -1}, "task_experts"),
        ({"head": "adatt", "task_experts": [1, 0]}, "task_experts"),
        ({"head": "adatt", "task_experts": []}, "task_experts"),
        ({"head": "ple", "task_experts": []}, "task_experts"),
        ({"head": "adatt", "tower": [0]}, "tower"),
        ({"head": "adatt", "dropout": 1.0}, "dropout"),
        ({"head": "adatt", "dropout": -0.1}, "dropout"),
        ({"head": "cross_stitch", "activation": "swish2"}, "activation"),
        ({"head": "adashare", "temperature": 0}, "temperature"),
        ({"head": "adashare", "halving_samples": 0}, "halving_samples"),
        ({"head": "adashare", "warmup_samples": "soon"}, "warmup_samples"),
        ({"head": "adashare", "sharing": -1}, "sharing"),
        ({"head": "mrn", "prior": -1}, "prior"),
        ({"head": "mrn", "prior_samples": 0}, "prior_samples"),
        ({"head": "mrn", "covariances": "features"}, "covariances"),
    ],
)
def test_wrong_configs_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AnyHeadConfig).validate_python(values)


@pytest.mark.parametrize("kind", HEADS, ids=ids)
def test_a_head_is_found_by_its_name(kind: type[HeadConfig]) -> None:
    config = kind(tower=(7,), activation="gelu")
    found = TypeAdapter(AnyHeadConfig).validate_python(config.model_dump())
    assert type(found) is kind
    assert found == config


def test_the_heads_are_these() -> None:
    names = (
        "shared_bottom single_task mmoe ml_mmoe ple cross_stitch adatt_sp adatt",
        "mtan soft_ordering sluice snr dselect_k aitm adashare learning_to_branch pepnet stem branched mrn",
    )
    assert [ids(kind) for kind in HEADS] == [ids(case) for case in FIXED] == " ".join(names).split()


# ---- new heads


@pytest.mark.parametrize("case", FIXED, ids=ids)
def test_meta_heads_have_the_shapes_of_real_ones(case: Case) -> None:
    config, tasks = case
    real, meta = config.build(FEATURES, names(tasks)), config.build_on_meta(FEATURES, names(tasks))
    assert {parameter.device.type for parameter in meta.parameters()} == {"meta"}
    shapes = [[(name, p.shape, p.dtype) for name, p in head.named_parameters()] for head in (real, meta)]
    assert shapes[0] == shapes[1]


@many
@given(cases(AdaTTSpConfig) | cases(AdaTTConfig))
def test_native_weights_exist_only_where_some_unit_has_several_experts(case: Case) -> None:
    config, tasks = case
    assert isinstance(config, AdaTTSpConfig | AdaTTConfig)
    units = units_of_experts(config, tasks)
    several = len(units) > len(set(units))
    head = build(config, tasks)
    for index, level in enumerate(head.levels):
        fusing = tasks if index + 1 == len(head.levels) else max(units) + 1
        assert level.num_fused == fusing
        if config.native_fusion and several:
            assert level.native.shape == (sum(unit < fusing for unit in units),)
        else:
            assert getattr(level, "native", None) is None


def test_native_weights_start_uniform_within_the_root_of_the_experts() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (level,) = AdaTTSpConfig(levels=((1,),), task_experts=(900, 400)).build(1, names(2)).levels
    for own in level.native.split((900, 400)):
        bound = len(own) ** -0.5
        assert bound * 0.98 < own.abs().max() <= bound
        assert abs(own.mean()) < bound * 0.1
        assert own.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_layers_start_as_torch_linear_does() -> None:
    """Uniform within ±1/sqrt(inputs), weights and biases."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = GroupedLinear([2, 1], 16, 500)
    for tensor in (layer.weight, layer.bias):
        assert 0.24 < tensor.abs().max() <= 0.25
        assert tensor.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.1)
