"""How likely each outcome is: hidden signals of an impression, mixed into tasks.

    signal = Σ parts               user, video, context, taste, an MLP of numbers and tab, history
    taste = Σ_k ± user_k video_k   the same products for all signals, with other signs: what one task teaches about a
                                   user or a video, another one can use, although the signals are uncorrelated
    z = Σ mixing[tab] · signals    per task; by tab, so that how much two tasks share depends on the row
    binary                         label ~ Bernoulli(sigmoid(intercept + z))
    regression                     label = level + swing · tanh(z) + noise

The scales and intercepts are fitted to a calibration sample of the world, so the rates hold for every seed.

Shapes: B impressions, C signals, K taste width, D numbers, H hidden units, P parts, T tabs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Literal

import numpy as np

from data.synthetic.log import HOUR_MS, Impressions, draw_impressions, times_of_day
from data.synthetic.world import (
    ACTIVE_NUMBERS,
    CONTEXT,
    SIGNALS,
    Bytes,
    Floats,
    HiddenWorld,
    Integers,
    Random,
    build_world,
    random_stream,
)

TaskGroup = Literal["engagement-consumption", "two-consumption", "five"]

PART_SHARES = {"user": 0.17, "video": 0.19, "context": 0.06, "taste": 0.40, "numbers": 0.14, "history": 0.04}
"""Share of each part in the variance of every signal."""
_TASTE_SIGNS_CK = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float32)
"""Orthogonal rows."""
_HISTORY_EFFECT_C = np.array([1.0, 0.6, 1.0, -1.0], np.float32)
_TAB_VARIATION = 0.5  # of a weight, up or down
_CALIBRATION_ROWS = 65_536
# log(1 + seconds) around 3 is 19 s; level - swing - 3 noise = 0, so no label is below 0 seconds
_WATCH_LEVEL, _WATCH_SWING, _WATCH_NOISE = 3.0, 1.2, 0.6


@dataclass(frozen=True)
class SyntheticTask:
    """One kind of feedback."""

    name: str
    number: int
    """Keys its random stream, so that a task's labels are the same in every group where its rate is."""
    kind: Literal["binary", "regression"]
    description: str
    mixing_C: tuple[float, ...]
    strength: float
    """Deviation of z."""
    rate: float | None = None
    """Positive rate of a binary task."""
    auxiliary: bool = False


_CLICK = SyntheticTask("click", 0, "binary", "1 = opened", (1.0, 0.1, 0.0, 0.0), 1.5, 0.44)
_LONG_VIEW = SyntheticTask(
    "long_view", 1, "binary", "1 = watched to the end or for long", (0.75, 0.6, 0.0, 0.0), 1.5, 0.44
)
_LIKE = SyntheticTask("like", 2, "binary", "1 = liked", (0.25, 0.0, 1.0, 0.0), 1.63, 0.017)
_WATCH_TIME = SyntheticTask("watch_time", 3, "regression", "log(1 + seconds watched)", (0.5, 0.8, 0.0, 0.0), 0.7)
_HATE = SyntheticTask(
    "hate", 4, "binary", "1 = asked not to be shown the like", (-0.45, -0.2, -0.1, 0.8), 1.7, 0.0008, True
)
_RARER_LONG_VIEW = SyntheticTask("long_view", 1, "binary", _LONG_VIEW.description, _LONG_VIEW.mixing_C, 1.5, 0.31)

TASK_GROUPS: dict[str, tuple[SyntheticTask, ...]] = {
    "engagement-consumption": (_CLICK, _LIKE),
    "two-consumption": (_CLICK, _LONG_VIEW),
    "five": (_WATCH_TIME, _CLICK, _RARER_LONG_VIEW, _LIKE, _HATE),
}


@dataclass(frozen=True)
class SignalModel:
    """Scales that give every part of every signal its share of a unit variance."""

    number_mean_D1: Floats
    number_deviation_D1: Floats
    taste_KC: Floats
    """From products of tastes to signals that are uncorrelated."""
    part_mean_PC: Floats
    part_scale_PC: Floats


@dataclass(frozen=True)
class TaskModel:
    """A task fitted to the world."""

    task: SyntheticTask
    weights_TC: Floats
    intercept: float


@dataclass(frozen=True)
class LabelModel:
    """All that turns impressions into labels."""

    signals: SignalModel
    tasks: tuple[TaskModel, ...]


@lru_cache(maxsize=1)
def build_label_model(seed: int, group: TaskGroup) -> LabelModel:
    """The label model of a seed's world, a pure function of its arguments."""
    world = build_world(seed)
    random = random_stream(seed, 1)
    shown = draw_impressions(world, random, times_of_day(random, _CALIBRATION_ROWS) // HOUR_MS)
    signals = _fit_signals(world, shown)
    signal_BC = hidden_signals(world, signals, shown)
    tab_B = shown.context["tab"]
    tasks: list[TaskModel] = []

    for task in TASK_GROUPS[group]:
        of_task = random_stream(seed, 2, task.number)
        tasks.append(_fit_task(task, of_task, signal_BC, tab_B))

    return LabelModel(signals, tuple(tasks))


def hidden_signals(world: HiddenWorld, model: SignalModel, shown: Impressions) -> Floats:
    """signal_BC: float32, each of mean 0 and about unit variance."""
    signal_BC = np.zeros((len(shown.user_B), len(SIGNALS)), np.float32)
    for part_BC in signal_parts(world, model, shown):
        signal_BC += part_BC

    return signal_BC


def signal_parts(world: HiddenWorld, model: SignalModel, shown: Impressions) -> Iterator[Floats]:
    """What each of PART_SHARES, in its order, adds to the signals: [B, C], of mean 0."""
    numbers_DB = _standardise(_log_numbers(shown), model.number_mean_D1, model.number_deviation_D1)
    parts = _parts(world, numbers_DB, shown, model.taste_KC)
    for part_BC, mean_C, scale_C in zip(parts, model.part_mean_PC, model.part_scale_PC, strict=True):
        yield (part_BC - mean_C) * scale_C


def true_mean(model: TaskModel, signal_BC: Floats, tab_B: Integers) -> Floats:
    """mean_B: float32, the expected label of each row given everything that the log shows."""
    z_B = mix_signals(model.weights_TC, signal_BC, tab_B)
    if model.task.kind == "regression":
        return (_WATCH_LEVEL + _WATCH_SWING * np.tanh(z_B)).astype(np.float32, copy=False)
    return _sigmoid(z_B + np.float32(model.intercept))


def draw_labels(task: SyntheticTask, mean_B: Floats, random: Random) -> Floats | Bytes:
    """label_B: int8 0 or 1 (binary), float32 (regression) with a noise of mean 0 that is cut at three deviations."""
    if task.kind == "binary":
        return (random.random(len(mean_B), dtype=np.float32) < mean_B).astype(np.int8)
    noise_B = random.standard_normal(len(mean_B), dtype=np.float32).clip(-3, 3)
    return (mean_B + _WATCH_NOISE * noise_B).astype(np.float32, copy=False)


def _parts(world: HiddenWorld, numbers_DB: Floats, shown: Impressions, taste_KC: Floats) -> Iterator[Floats]:
    """[B, C] for each of PART_SHARES, in its order."""
    user_B = shown.user_B
    video_B = shown.video_B
    tab_B = shown.context["tab"]
    yield world.user_effect_UC[user_B]
    yield world.video_effect_VC[video_B]
    yield _context_effect(world, shown.context)
    yield _taste_products(world, shown) @ taste_KC
    of_tab_HB = world.mlp_tab_HT[:, tab_B]
    hidden_HB = np.tanh(world.mlp_in_HD @ numbers_DB + of_tab_HB)
    yield (world.mlp_out_CH @ hidden_HB).T
    yield _history_match(world, shown)[:, None] * _HISTORY_EFFECT_C


def _taste_products(world: HiddenWorld, shown: Impressions) -> Floats:
    """products_BK: how well user and video agree, in each direction of taste."""
    return world.user_taste_UK[shown.user_B] * world.video_taste_VK[shown.video_B]


def _uncorrelated(products_BK: Floats) -> Floats:
    """taste_KC: each signal's signs on whitened products, since users are shown more of what they like."""
    variance_K, directions_KK = np.linalg.eigh(np.cov(products_BK.T))
    whitening_KK = directions_KK / np.sqrt(variance_K) @ directions_KK.T
    return (whitening_KK @ _TASTE_SIGNS_CK.T).astype(np.float32)


def _context_effect(world: HiddenWorld, context: dict[str, Integers]) -> Floats:
    effects = (world.context_effects[name][context[name]] for name in CONTEXT)
    return reduce(np.add, effects)


def _history_match(world: HiddenWorld, shown: Impressions) -> Floats:
    """match_B: share of the recent videos that have the category of the one shown; 0 without history."""
    length_B = np.diff(shown.recent_offsets_B)
    row_N = np.repeat(np.arange(len(length_B)), length_B)
    category_B = world.category_V[shown.video_B]
    same_N = world.category_V[shown.recent_videos_N] == category_B[row_N]
    same_B = np.bincount(row_N[same_N], minlength=len(length_B))
    return (same_B / np.maximum(length_B, 1)).astype(np.float32)


def _log_numbers(shown: Impressions) -> Floats:
    return np.log1p(np.stack([shown.numbers[name] for name in ACTIVE_NUMBERS]))


def _fit_signals(world: HiddenWorld, shown: Impressions) -> SignalModel:
    log_DB = _log_numbers(shown)
    mean_D1 = np.nanmean(log_DB, 1, keepdims=True)
    deviation_D1 = np.nanstd(log_DB, 1, keepdims=True)
    numbers_DB = _standardise(log_DB, mean_D1, deviation_D1)
    taste_KC = _uncorrelated(_taste_products(world, shown))
    parts = list(_parts(world, numbers_DB, shown, taste_KC))
    deviation_PC = np.stack([part_BC.std(0) for part_BC in parts])
    share_P1 = np.array(list(PART_SHARES.values()), np.float32)[:, None]
    mean_PC = np.stack([part_BC.mean(0) for part_BC in parts])

    return SignalModel(mean_D1, deviation_D1, taste_KC, mean_PC, np.sqrt(share_P1) / deviation_PC)


def _fit_task(task: SyntheticTask, random: Random, signal_BC: Floats, tab_B: Integers) -> TaskModel:
    variation_TC = random.uniform(-_TAB_VARIATION, _TAB_VARIATION, (CONTEXT["tab"], len(SIGNALS)))
    weights_TC = np.array(task.mixing_C, np.float32) * (1 + variation_TC).astype(np.float32)
    z_B = mix_signals(weights_TC, signal_BC, tab_B)
    scale = task.strength / float(z_B.std())
    intercept = 0.0 if task.rate is None else _intercept(z_B * scale, task.rate)
    return TaskModel(task, weights_TC * np.float32(scale), intercept)


def _intercept(logit_B: Floats, rate: float) -> float:
    """By bisection: the intercept at which the mean probability is the rate."""
    low = -40.0
    high = 40.0

    for _ in range(50):
        middle = (low + high) / 2
        mean = _sigmoid(logit_B + np.float32(middle)).mean(dtype=np.float64)
        too_low = mean < rate
        low, high = (middle, high) if too_low else (low, middle)

    return low


def mix_signals(weights_TC: Floats, signal_BC: Floats, tab_B: Integers) -> Floats:
    """z_B, by the weights of each row's tab."""
    return np.einsum("bc,bc->b", weights_TC[tab_B], signal_BC)


def _standardise(log_DB: Floats, mean_D1: Floats, deviation_D1: Floats) -> Floats:
    """Missing numbers become 0, the mean."""
    return np.nan_to_num((log_DB - mean_D1) / deviation_D1, nan=0.0)


def _sigmoid(logit_B: Floats) -> Floats:
    return np.reciprocal(1 + np.exp(-logit_B))
