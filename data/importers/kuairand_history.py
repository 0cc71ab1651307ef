"""History features of a KuaiRand log: what happened before an impression's own day, by its user, video and author.

    impression on day          1      2      3   │   4      5
                             ─────── train ──────┴─── test ────
    days its features read     –      1     1–2  │  1–3    1–3

So no outcome of a day is in a feature of that day or of an earlier one, and no outcome of a test day is in any. Days
are those of `date`, by which train and test are split. Impressions at random (`is_rand`) have these features but are
not counted in them. As the days overlap in `time_ms` (see kuairand.py), an impression about midnight may have in its
history one that was shown after it: 92 of 193,964 rows in the files of the tests, 4 of them among 26,683 test rows.

Shapes: N impressions, I ids, S statistics, the first of which is the number of impressions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.discovery.schema import Column

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Entity:
    """Whose history is counted."""

    name: str
    id_column: str
    prior_impressions: int
    """Strength of the prior: so many impressions like everyone's are added to the entity's own. Chosen, not tuned."""


@dataclass(frozen=True)
class Statistic:
    """The mean of an outcome over earlier impressions."""

    outcome: str
    suffix: str
    factor: float
    description: str


ENTITIES = (Entity("user", "user_id", 10), Entity("video", "video_id", 20), Entity("author", "author_id", 20))
# Rates are per 1,000: what matters is their logarithm, and log1p of that (`transform = "log1p"`) is log(rate + 0.001)
# but for a constant, which keeps the rare outcomes apart and is finite where a rate is 0.
STATISTICS = (
    Statistic("is_click", "click_per_1000", 1000.0, "Clicks per 1,000 impressions"),
    Statistic("long_view", "long_view_per_1000", 1000.0, "Long views per 1,000 impressions"),
    Statistic("is_like", "like_per_1000", 1000.0, "Likes per 1,000 impressions"),
    Statistic("is_profile_enter", "profile_enter_per_1000", 1000.0, "Profiles opened per 1,000 impressions"),
    Statistic("play_time_log1p", "play_time_log1p_mean", 1.0, "Mean of play_time_log1p over the impressions"),
)


def _seen_column(entity: Entity) -> Column:
    description = f"How many impressions the {entity.name} had; only earlier days are used."
    return Column(f"{entity.name}_seen", "float", "feature", description)


def _mean_column(entity: Entity, statistic: Statistic) -> Column:
    prior = f"smoothed by {entity.prior_impressions} impressions like everyone's"
    description = f"{statistic.description} of the {entity.name}, {prior}; only earlier days are used."
    return Column(f"{entity.name}_{statistic.suffix}", "float", "feature", description)


HISTORY_COLUMNS = tuple(
    column
    for entity in ENTITIES
    for column in (_seen_column(entity), *(_mean_column(entity, statistic) for statistic in STATISTICS))
)


def history_features(rows: pa.Table, train_days: Sequence[int]) -> dict[str, pa.Array]:
    """HISTORY_COLUMNS by name, float32, in the order of `rows`; rows of other days than `train_days` are test rows.

    seen = 0 for an id not seen earlier. A mean is (sum + prior · everyone's mean) / (seen + prior); null where
    everyone's is unknown, as on the first day, and where the id is null.
    """
    log = _Log.read(rows, train_days)
    everyone_NS = log.earlier_sums(np.zeros(rows.num_rows, np.int64), num_ids=1)

    with np.errstate(invalid="ignore"):  # 0 / 0 = NaN, written as null, where there is no earlier impression
        base_NS = everyone_NS / everyone_NS[:, :1]

    columns: list[pa.Array] = []
    for entity in ENTITIES:
        codes_N, num_ids = _codes(rows[entity.id_column])
        columns += _describe(log.earlier_sums(codes_N, num_ids), base_NS, codes_N < num_ids, entity)

    return dict(zip((column.name for column in HISTORY_COLUMNS), columns, strict=True))


@dataclass(frozen=True)
class _Log:
    """What the sums are made of."""

    rows_by_day: tuple[Int64, ...]
    """The rows of each day of training, ascending, then those of all test days together."""
    counted_N: NDArray[np.bool_]
    outcomes_NS: Float64
    """1 for the impression, then the outcomes; 0 throughout in the rows that are not counted."""

    @classmethod
    def read(cls, rows: pa.Table, train_days: Sequence[int]) -> "_Log":
        period_N = pc.index_in(rows["date"], value_set=pa.array(train_days, rows["date"].type))
        period_N = period_N.fill_null(len(train_days)).to_numpy()
        counted_N = (period_N < len(train_days)) & (rows["is_rand"].to_numpy() == 0)
        outcomes_NS = np.zeros((rows.num_rows, 1 + len(STATISTICS)))
        outcomes_NS[counted_N, 0] = 1.0

        for position, statistic in enumerate(STATISTICS, start=1):
            outcomes_NS[counted_N, position] = rows[statistic.outcome].to_numpy()[counted_N]

        periods = range(len(train_days) + 1)
        rows_by_period = [np.flatnonzero(period_N == period) for period in periods]
        return cls(tuple(rows_by_period), counted_N, outcomes_NS)

    def earlier_sums(self, codes_N: Int64, num_ids: int) -> Float64:
        """[N, S]: the sums over the earlier days' rows with the same code; 0 for the code `num_ids`, a null id."""
        sums_IS = np.zeros((num_ids + 1, self.outcomes_NS.shape[1]))
        earlier_NS = np.empty_like(self.outcomes_NS)

        for day in self.rows_by_day:
            earlier_NS[day] = sums_IS[codes_N[day]]
            counted = day[self.counted_N[day] & (codes_N[day] < num_ids)]
            for position, outcome_N in enumerate(self.outcomes_NS.T):
                sums_IS[:, position] += np.bincount(codes_N[counted], outcome_N[counted], minlength=num_ids + 1)

        return earlier_NS


def _codes(ids: pa.ChunkedArray) -> tuple[Int64, int]:
    """0 … num_ids-1 for the distinct ids, num_ids for null; and num_ids."""
    encoded = ids.combine_chunks().dictionary_encode()
    num_ids = len(encoded.dictionary)
    return encoded.indices.cast(pa.int64()).fill_null(num_ids).to_numpy(), num_ids


def _describe(sums_NS: Float64, base_NS: Float64, known_N: NDArray[np.bool_], entity: Entity) -> list[pa.Array]:
    """The columns of one entity, in the order of HISTORY_COLUMNS."""
    seen_N = sums_NS[:, 0]
    prior = entity.prior_impressions
    columns = [pa.array(seen_N.astype(np.float32))]

    for position, statistic in enumerate(STATISTICS, start=1):
        mean_N = (sums_NS[:, position] + prior * base_NS[:, position]) / (seen_N + prior)
        values_N = np.where(known_N, statistic.factor * mean_N, np.nan).astype(np.float32)
        columns.append(pa.array(values_N, from_pandas=True))  # NaN becomes null

    return columns
