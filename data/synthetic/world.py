"""The hidden world behind the synthetic log: users and videos with the factors that drive outcomes.

    author ──► video ◄── category      a video's effect: category + author + its tags + its own
    archetype ──► user                 a user's effect and taste: archetype + their own
    popularity                         Zipf, as wheels of slots: a slot drawn uniformly is a video drawn by popularity

Every effect has one value per hidden signal (`SIGNALS`), which `synth_tasks` mixes into tasks.

Shapes: U users, V videos, A authors, G categories, S archetypes, C signals, K taste width, F favourites, H hidden
units, D numbers, T tabs, N slots. Users and videos are world indices; the ids in the log are a permutation of them.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.int8]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Random = np.random.Generator

USERS, VIDEOS, AUTHORS, CATEGORIES, TAGS = 100_000, 50_000, 10_000, 60, 2_000
CONTEXT = {"hour": 24, "tab": 6, "device": 12, "network": 4, "region": 32}
SIGNALS = ("interest", "dwell", "affinity", "aversion")
ARCHETYPES, TASTE_WIDTH, HIDDEN, FAVOURITES, MAX_TAGS = 16, 4, 12, 4, 5
SLOTS = 1 << 21  # the rarest video has 2e-6 of the traffic: 4 slots

ACTIVE_NUMBERS = (
    "duration_s", "video_plays", "author_fans", "user_follows", "user_active_days", "video_age_h", "session_position",
)  # fmt: skip
"""Numbers that drive the outcomes, through the MLP. Every other number is a noisy view of an effect, or noise."""


@dataclass(frozen=True)
class HiddenWorld:
    """Everything that is fixed for one seed, about 40 MB."""

    user_id_U: Integers
    video_id_V: Integers
    user_slots_N: npt.NDArray[np.int32]
    video_slots_N: npt.NDArray[np.int32]
    category_slots_G: Integers
    """First slot of each category (videos are sorted by category), and one more entry for the end."""
    author_V: Integers
    category_V: Integers
    tag_offsets_V: Integers
    tags: Integers
    favourites_UF: Integers
    """Each user's preferred categories."""
    user_context: dict[str, Integers]
    """Device and region of each user."""
    history_U: Floats
    """Mean length of the list of recent videos."""
    user_effect_UC: Floats
    video_effect_VC: Floats
    user_taste_UK: Floats
    video_taste_VK: Floats
    context_effects: dict[str, Floats]
    """[vocabulary, C] for each context column."""
    user_numbers: dict[str, Floats]
    video_numbers: dict[str, Floats]
    mlp_in_HD: Floats
    mlp_tab_HT: Floats
    mlp_out_CH: Floats


@dataclass(frozen=True)
class _Catalogue:
    """Videos sorted by category."""

    author_V: Integers
    category_V: Integers
    share_V: Doubles
    fans_A: Doubles
    tag_offsets_V: Integers
    tags: Integers


@dataclass(frozen=True)
class _Tastes:
    """What users like, and the videos' side of it."""

    archetype_U: Integers
    user_taste_UK: Floats
    video_taste_VK: Floats
    favourites_UF: Integers


def random_stream(seed: int, *key: int) -> Random:
    """An independent counter-based generator for every (seed, key)."""
    return Random(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


@lru_cache(maxsize=1)
def build_world(seed: int) -> HiddenWorld:
    """The world of a seed, a pure function of it."""
    random = random_stream(seed, 0)
    catalogue = _draw_catalogue(random)
    tastes = _draw_tastes(random, catalogue.category_V)
    user_share_U = _zipf(USERS, exponent=0.8, offset=20)
    user_effect_UC = 0.5 * _normal(random, ARCHETYPES, len(SIGNALS))[tastes.archetype_U]
    user_effect_UC += 0.85 * _normal(random, USERS, len(SIGNALS))
    video_effect_VC = _draw_video_effects(random, catalogue)
    video_slots_N = _slots(catalogue.share_V)

    return HiddenWorld(
        user_id_U=random.permutation(USERS),
        video_id_V=random.permutation(VIDEOS),
        user_slots_N=_slots(user_share_U),
        video_slots_N=video_slots_N,
        category_slots_G=np.searchsorted(catalogue.category_V[video_slots_N], np.arange(CATEGORIES + 1)),
        author_V=catalogue.author_V,
        category_V=catalogue.category_V,
        tag_offsets_V=catalogue.tag_offsets_V,
        tags=catalogue.tags,
        favourites_UF=tastes.favourites_UF,
        user_context=_draw_user_context(random, tastes.archetype_U),
        history_U=random.gamma(3.0, 2.5, USERS).astype(np.float32),
        user_effect_UC=user_effect_UC,
        video_effect_VC=video_effect_VC,
        user_taste_UK=tastes.user_taste_UK,
        video_taste_VK=tastes.video_taste_VK,
        context_effects=_draw_context_effects(random),
        user_numbers=_draw_user_numbers(random, user_share_U, user_effect_UC),
        video_numbers=_draw_video_numbers(random, catalogue, video_effect_VC),
        mlp_in_HD=0.6 * _normal(random, HIDDEN, len(ACTIVE_NUMBERS)),
        mlp_tab_HT=_normal(random, HIDDEN, CONTEXT["tab"]),
        mlp_out_CH=_normal(random, len(SIGNALS), HIDDEN),
    )


def _draw_catalogue(random: Random) -> _Catalogue:
    """Every author has one main category; one video in five is about something else."""
    author_share_A = _zipf(AUTHORS, exponent=0.6, offset=10)
    category_A = random.choice(CATEGORIES, AUTHORS, p=_zipf(CATEGORIES, exponent=0.7, offset=2))
    author_V = random.choice(AUTHORS, VIDEOS, p=author_share_A)
    is_main_V = random.random(VIDEOS) < 0.8
    category_V = np.where(is_main_V, category_A[author_V], random.integers(CATEGORIES, size=VIDEOS))
    by_category = np.argsort(category_V, kind="stable")
    tag_count_V = random.integers(1, MAX_TAGS + 1, size=VIDEOS)

    # The order of the draws is part of the dataset: share, fans, tags.
    share_V = random.permutation(_zipf(VIDEOS, exponent=1.0, offset=20))
    fans_A = 5e7 * author_share_A * random.lognormal(0.0, 0.5, AUTHORS)
    category_V = category_V[by_category]
    category_of_tag = np.repeat(category_V, tag_count_V)

    return _Catalogue(
        author_V=author_V[by_category],
        category_V=category_V,
        share_V=share_V,
        fans_A=np.floor(fans_A),
        tag_offsets_V=np.concatenate([[0], np.cumsum(tag_count_V)]),
        tags=_draw_tags(random, category_of_tag),
    )


def _draw_tags(random: Random, category: Integers) -> Integers:
    """Four tags in five come from the category's own stretch of the vocabulary, by popularity; the others from all."""
    own = TAGS // CATEGORIES
    rank = random.choice(own, len(category), p=_zipf(own, exponent=0.8, offset=1))
    is_own = random.random(len(category)) < 0.8
    tags = np.where(is_own, category * own + rank, random.integers(TAGS, size=len(category)))
    return random.permutation(TAGS)[tags]


def _draw_tastes(random: Random, category_V: Integers) -> _Tastes:
    """Favourites are drawn by the softmax (the Gumbel way) of user · category."""
    archetype_U = random.integers(ARCHETYPES, size=USERS)
    category_GK = _normal(random, CATEGORIES, TASTE_WIDTH)
    user_UK = 0.8 * _normal(random, ARCHETYPES, TASTE_WIDTH)[archetype_U]
    user_UK += 0.6 * _normal(random, USERS, TASTE_WIDTH)
    video_VK = 0.8 * category_GK[category_V]
    video_VK += 0.6 * _normal(random, VIDEOS, TASTE_WIDTH)
    preference_UG = user_UK @ category_GK.T
    exponential_UG = random.standard_exponential((USERS, CATEGORIES), dtype=np.float32)
    preference_UG -= np.log(exponential_UG + np.float32(1e-9))
    favourites_UF = np.argpartition(preference_UG, -FAVOURITES)[:, -FAVOURITES:]

    return _Tastes(archetype_U, user_UK, video_VK, np.ascontiguousarray(favourites_UF))


def _draw_video_effects(random: Random, catalogue: _Catalogue) -> Floats:
    effect_of_tags = _normal(random, TAGS, len(SIGNALS))[catalogue.tags]
    tag_effect_VC = np.add.reduceat(effect_of_tags, catalogue.tag_offsets_V[:-1])
    tag_effect_VC /= np.sqrt(np.diff(catalogue.tag_offsets_V))[:, None]
    effect_VC = 0.55 * _normal(random, CATEGORIES, len(SIGNALS))[catalogue.category_V]
    effect_VC += 0.5 * _normal(random, AUTHORS, len(SIGNALS))[catalogue.author_V]
    effect_VC += 0.3 * tag_effect_VC
    effect_VC += 0.6 * _normal(random, VIDEOS, len(SIGNALS))

    return effect_VC


def _draw_user_context(random: Random, archetype_U: Integers) -> dict[str, Integers]:
    """Half of the users live and buy as their archetype does."""
    context: dict[str, Integers] = {}
    for name in ("device", "region"):
        size = CONTEXT[name]
        is_typical_U = random.random(USERS) < 0.5
        typical_U = random.integers(size, size=ARCHETYPES)[archetype_U]
        other_U = random.choice(size, USERS, p=_zipf(size, exponent=0.8, offset=1))
        context[name] = np.where(is_typical_U, typical_U, other_U)

    return context


def _draw_context_effects(random: Random) -> dict[str, Floats]:
    effects = {name: _normal(random, size, len(SIGNALS)) for name, size in CONTEXT.items()}
    effects["hour"] *= 0.4  # rows come in order of time: a strong hour would make a row group a biased sample
    return effects


def _draw_user_numbers(random: Random, share_U: Doubles, effect_UC: Floats) -> dict[str, Floats]:
    interest_U = effect_UC[:, SIGNALS.index("interest")]
    affinity_U = effect_UC[:, SIGNALS.index("affinity")]

    # The order of the draws is part of the dataset.
    follows_U = random.lognormal(3.5, 1.3, USERS)
    active_days_U = 1 + 100 * np.sqrt(share_U / share_U[0]) * random.gamma(4.0, 1.0, USERS)
    click_logit_U = -0.3 + 0.8 * interest_U + 0.4 * random.standard_normal(USERS)
    like_logit_U = -4.5 + affinity_U + 0.6 * random.standard_normal(USERS)
    numbers = {
        "user_follows": np.floor(follows_U),
        "user_active_days": np.floor(active_days_U),
        "user_click_rate": _sigmoid(click_logit_U),
        "user_like_rate": _sigmoid(like_logit_U),
    }

    return {name: values.astype(np.float32) for name, values in numbers.items()}


def _draw_video_numbers(random: Random, catalogue: _Catalogue, effect_VC: Floats) -> dict[str, Floats]:
    interest_V = effect_VC[:, SIGNALS.index("interest")]
    affinity_V = effect_VC[:, SIGNALS.index("affinity")]

    # The order of the draws is part of the dataset.
    duration_V = 3 + random.lognormal(3.2, 0.8, VIDEOS)
    plays_V = 5e8 * catalogue.share_V * random.lognormal(0.0, 0.6, VIDEOS)
    age_V = random.lognormal(4.5, 1.2, VIDEOS)
    click_logit_V = -0.3 + 0.8 * interest_V + 0.4 * random.standard_normal(VIDEOS)
    like_logit_V = -4.5 + affinity_V + 0.6 * random.standard_normal(VIDEOS)
    numbers = {
        "duration_s": duration_V,
        "video_plays": np.floor(plays_V),
        "author_fans": catalogue.fans_A[catalogue.author_V],
        "video_age_h": age_V,
        "video_click_rate": _sigmoid(click_logit_V),
        "video_like_rate": _sigmoid(like_logit_V),
    }

    return {name: values.astype(np.float32) for name, values in numbers.items()}


def _normal(random: Random, *shape: int) -> Floats:
    return random.standard_normal(shape, dtype=np.float32)


def _zipf(size: int, *, exponent: float, offset: float) -> Doubles:
    """Shares that fall with the rank as (rank + offset)^-exponent; the offset flattens the first few."""
    weights = (np.arange(size) + offset) ** -exponent
    return weights / weights.sum()


def _slots(shares: Doubles) -> npt.NDArray[np.int32]:
    """Each index as often as its share says, in order: a draw is one look-up instead of a search."""
    middles = (np.arange(SLOTS) + 0.5) / SLOTS
    index = np.searchsorted(np.cumsum(shares), middles)
    return index.clip(max=len(shares) - 1).astype(np.int32)


def _sigmoid(logits: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-logits))
