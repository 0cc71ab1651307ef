"""What of a config may change from one start of a run to the next."""

import re

FREE_SECTIONS = ("log", "checkpoint")
"""May change between starts of a run: they do not touch what is trained."""
FREE_KEYS = (
    "run.dir",
    "run.device",
    "run.trace",
    "run.hang_seconds",
    "run.collective_seconds",
    "data.train",  # the same data elsewhere has the same fingerprint
    "data.test",
    "data.where",
    "data.complete",
    "data.test_where",
    "data.memory",  # the rows of a block were decided at the first start
    "data.threads",
    "data.repeat",  # the first pass does not depend on it
    "data.evaluation_batch_size",
    "data.on_bad_file",
    "data.bad_row_groups",
    "data.on_bad_value",
    "data.bad_values_per_million",
    "sharding.allow",
    "sharding.memory",
    "tables.*.sharding",
    "tables.*.kernel",
    "train.samples",
    "train.patience",
    "train.on_non_finite",
    "train.non_finite_batches",
    "evaluate.at_samples",
    "evaluate.next_window",
    "evaluate.by",
    "evaluate.unit",
    "evaluate.group_by",
)

_LEARNING = re.compile(
    r"optimizer\.(dense|sparse)\.(learning_rate|warmup_samples|decay|decay_to|weight_decay)"
    r"|tables\.\d+\.optimizer\.learning_rate|sharding\.(communication|replicas|replica_sync_samples)"
    r"|optimizer\.dense\.clip_norm|tasks\.\d+\.weight|model\.dropout"
)
"""May change when that is asked for (`adatt train --allow-change KEY`): how the same weights go on to learn."""
_REASONS = {
    "run.seed": "order and initial values come of it",
    "data": "it decides which rows share a batch",
    "features": "the model reads other inputs by it",
    "tables": "their rows and state fit no other",
    "tasks": "it decides what is learned",
    "model": "the head's weights fit no other",
    "balance": "its state fits no other",
    "optimizer": "its state fits no other",
    "init": "the run has begun from it",
}
"""Why other keys may not, by how they begin."""


def is_free(key: str) -> bool:
    """Whether a key may change from one start to the next without being asked for; its list entries have numbers."""
    return re.sub(r"\.\d+(?=\.)", ".*", key) in (*FREE_SECTIONS, *FREE_KEYS)


def may_change(key: str) -> bool:
    """Whether a key may change from one start to the next when that is asked for."""
    return _LEARNING.fullmatch(key) is not None


def reason_against(key: str) -> str:
    """Why a table's key may not change, where that is not plain to see; else nothing."""
    return "each of them keeps an optimizer state of its own" if key.endswith(".column_shards") else ""


def check_change(key: str) -> str:
    """The key; raises ValueError, with the reason, if it may not change whoever asks."""
    if may_change(key):
        return key
    if is_free(key) or key.partition(".")[0] in FREE_SECTIONS:
        raise ValueError(f"{key} may change without being asked for")
    reason = next((text for begin, text in _REASONS.items() if key.startswith(begin)), "there is no such key")
    raise ValueError(f"{key} may not change in a run: {reason}; train in another folder")
