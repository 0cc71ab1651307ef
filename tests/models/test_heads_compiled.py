"""Heads under torch.compile: one graph, and still equal to their loop versions."""

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.heads.base import Head, HeadConfig
from models.heads.related.branched import BranchedConfig
from tests.models.heads import FIXED, HEADS, Case, assert_equal_loop, cases, fitting, ids, many

COMPILER = next(filter(shutil.which, ("c++", "g++", "clang++")), None)


def small(config: HeadConfig) -> HeadConfig:
    """With one level."""
    tree = {"tree": config.tree[-1:]} if isinstance(config, BranchedConfig) else {}
    return config.model_copy(update={"levels": fitting(type(config), ((3,),)), "tower": (), **tree})


SMALL: tuple[Case, ...] = tuple((small(config), tasks) for config, tasks in FIXED)
"""Every head with one level: inductor takes many seconds for several."""


def compile_afresh(head: Head, backend: str) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(head, backend=backend, fullgraph=True)


@pytest.mark.parametrize("kind", HEADS, ids=ids)
@settings(many, max_examples=2)
@given(data=st.data())
def test_a_traced_head_equals_its_loop(kind: type[HeadConfig], data: st.DataObject) -> None:
    config, tasks = data.draw(cases(kind))
    assert_equal_loop(config, tasks, compiled=functools.partial(compile_afresh, backend="aot_eager"))


@pytest.mark.skipif(COMPILER is None, reason="inductor needs a C++ compiler, and none is on the path")
@pytest.mark.parametrize("case", SMALL, ids=ids)
def test_a_compiled_head_equals_its_loop(case: Case) -> None:
    assert_equal_loop(*case, compiled=functools.partial(compile_afresh, backend="inductor"))
