"""What the synthetic log shows of an impression: draws rows from the hidden world and lays them out as Arrow columns.

Shapes: B impressions; N entries of all their lists. Users and videos are world indices until `feature_arrays`.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.discovery.schema import Column
from data.synthetic.world import (
    AUTHORS,
    CATEGORIES,
    CONTEXT,
    FAVOURITES,
    MAX_TAGS,
    SLOTS,
    TAGS,
    USERS,
    VIDEOS,
    Doubles,
    Floats,
    HiddenWorld,
    Integers,
    Random,
)

MAX_RECENT = 20
NULL_RATE = 0.01
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

# traffic by hour: lowest at 4 in the morning, highest at 9 in the evening
_HOURLY_TRAFFIC = np.array([6, 4, 3, 2, 2, 2, 3, 4, 5, 6, 6, 7, 8, 8, 7, 6, 6, 7, 8, 10, 11, 12, 11, 8])
_TRAFFIC_BY_HOUR = np.concatenate([[0.0], np.cumsum(_HOURLY_TRAFFIC) / _HOURLY_TRAFFIC.sum()])

KEY_COLUMNS = [
    Column("row_id", "int64", "key", "number of the row, in order of time; the test set goes on where train ends"),
    Column("timestamp", "int64", "time", "time of the impression, ms since 1970-01-01 UTC; strictly increasing"),
]
_NUMBER_DESCRIPTIONS = {
    "duration_s": "length of the video, seconds",
    "video_plays": "plays of the video so far; heavy tail",
    "author_fans": "followers of the author; heavy tail",
    "user_follows": "accounts that the user follows; heavy tail",
    "user_active_days": "days on which the user was active",
    "video_age_h": "hours since the upload",
    "session_position": "impressions in this session so far, from 1",
    "video_click_rate": "smoothed share of the video's past impressions that were clicked",
    "video_like_rate": "smoothed share of the video's past impressions that were liked",
    "user_click_rate": "smoothed share of the user's past impressions that were clicked",
    "user_like_rate": "smoothed share of the user's past impressions that were liked",
    "battery_level": "charge of the device, per cent; unrelated to every outcome",
    "free_storage_gb": "free storage of the device, GB; unrelated to every outcome",
}
FEATURE_COLUMNS = [
    Column("user_id", "int64", "feature", "the user", USERS),
    Column("video_id", "int64", "feature", "the video", VIDEOS),
    Column("author_id", "int64", "feature", "author of the video", AUTHORS),
    Column("category_id", "int64", "feature", "category of the video", CATEGORIES),
    Column("recent_videos", "list<item: int64>", "feature", f"last videos watched, 0 to {MAX_RECENT}", VIDEOS),
    Column("tags", "list<item: int64>", "feature", f"tags of the video, 1 to {MAX_TAGS}", TAGS),
    Column("hour", "int64", "feature", "hour of the day, UTC", CONTEXT["hour"]),
    Column("tab", "int64", "feature", "place in the app where the video was shown", CONTEXT["tab"]),
    Column("device", "int64", "feature", "device model of the user", CONTEXT["device"]),
    Column("network", "int64", "feature", "kind of network connection", CONTEXT["network"]),
    Column("region", "int64", "feature", "region of the user", CONTEXT["region"]),
    *(
        Column(name, "float", "feature", f"{text}; null in {NULL_RATE:.0%}")
        for name, text in _NUMBER_DESCRIPTIONS.items()
    ),
]


@dataclass(frozen=True)
class Impressions:
    """A block of rows as the log shows them; nothing else drives the outcomes."""

    user_B: Integers
    video_B: Integers
    context: dict[str, Integers]
    numbers: dict[str, Floats]
    """NaN = missing."""
    recent_offsets_B: Integers
    """One more entry for the end."""
    recent_videos_N: Integers


def times_of_day(random: Random, rows: int) -> Integers:
    """Strictly increasing ms since midnight: one time in each of `rows` equal shares of a day's traffic."""
    share_B: Doubles = (np.arange(rows) + 0.9 * random.random(rows)) / rows
    return np.interp(share_B, _TRAFFIC_BY_HOUR, np.arange(25.0) * HOUR_MS).astype(np.int64)


def draw_impressions(world: HiddenWorld, random: Random, hour_B: Integers) -> Impressions:
    """Rows at the given hours: active users, popular videos, half of them from the user's favourite categories."""
    rows = len(hour_B)
    user_B = world.user_slots_N[random.integers(SLOTS, size=rows)].astype(np.int64)
    video_B = _draw_videos(world, random, user_B, favourite_share=0.5)
    length_B = np.minimum(random.poisson(world.history_U[user_B]), MAX_RECENT)

    return Impressions(
        user_B=user_B,
        video_B=video_B,
        context={
            "hour": hour_B,
            "tab": _draw_choice(random, rows, [0.45, 0.2, 0.15, 0.1, 0.06, 0.04]),
            "device": world.user_context["device"][user_B],
            "network": _draw_choice(random, rows, [0.55, 0.25, 0.15, 0.05]),
            "region": world.user_context["region"][user_B],
        },
        numbers=_draw_numbers(world, random, user_B, video_B),
        recent_offsets_B=np.concatenate([[0], np.cumsum(length_B)]),
        recent_videos_N=_draw_videos(world, random, np.repeat(user_B, length_B), favourite_share=0.8),
    )


def feature_arrays(world: HiddenWorld, shown: Impressions) -> dict[str, pa.Array]:
    """Arrow arrays in the order of FEATURE_COLUMNS, with the ids that the log uses."""
    recent_ids = pa.array(world.video_id_V[shown.recent_videos_N])
    tag_offsets = pa.array(world.tag_offsets_V, pa.int32())
    tags_of_video = pa.ListArray.from_arrays(tag_offsets, pa.array(world.tags))
    recent_offsets = pa.array(shown.recent_offsets_B, pa.int32())
    arrays = {
        "user_id": world.user_id_U[shown.user_B],
        "video_id": world.video_id_V[shown.video_B],
        "author_id": world.author_V[shown.video_B],
        "category_id": world.category_V[shown.video_B],
        "recent_videos": pa.ListArray.from_arrays(recent_offsets, recent_ids),
        "tags": tags_of_video.take(pa.array(shown.video_B)),
        **shown.context,
    }
    arrays |= {name: pa.array(shown.numbers[name], from_pandas=True) for name in _NUMBER_DESCRIPTIONS}

    return {column.name: pa.array(arrays[column.name]) for column in FEATURE_COLUMNS}


def _draw_videos(world: HiddenWorld, random: Random, user_B: Integers, favourite_share: float) -> Integers:
    """By popularity among all videos, or within one of the user's favourite categories in `favourite_share` of rows."""
    rows = len(user_B)
    category_B = world.favourites_UF[user_B, random.integers(FAVOURITES, size=rows)]
    first_B = world.category_slots_G[category_B]
    end_B = world.category_slots_G[category_B + 1]
    share_B = random.random(rows)
    favourite_B = random.random(rows, dtype=np.float32) < favourite_share
    within_category_B = first_B + share_B * (end_B - first_B)
    slot_B = np.where(favourite_B, within_category_B, share_B * SLOTS).astype(np.int64)

    return world.video_slots_N[slot_B].astype(np.int64)


def _draw_numbers(world: HiddenWorld, random: Random, user_B: Integers, video_B: Integers) -> dict[str, Floats]:
    rows = len(user_B)
    numbers = {name: values_U[user_B] for name, values_U in world.user_numbers.items()}
    numbers |= {name: values_V[video_B] for name, values_V in world.video_numbers.items()}
    numbers["video_age_h"] += 24 * random.standard_exponential(rows, dtype=np.float32)
    position_B = 20 * random.standard_exponential(rows, dtype=np.float32)
    numbers["session_position"] = 1 + np.floor(position_B)
    battery_B = 100 * random.random(rows, dtype=np.float32)
    numbers["battery_level"] = 1 + np.floor(battery_B)
    numbers["free_storage_gb"] = np.exp(2.5 + random.standard_normal(rows, dtype=np.float32))

    for values_B in numbers.values():
        values_B[random.random(rows, dtype=np.float32) < NULL_RATE] = np.nan

    return numbers


def _draw_choice(random: Random, rows: int, shares: list[float]) -> Integers:
    edges = np.cumsum(shares)[:-1]
    return np.searchsorted(edges, random.random(rows), side="right")
