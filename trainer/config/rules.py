"""Rules that hold between keys of a config; each raises ValueError with the way out."""

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from data.discovery.schema import ORACLE_PREFIX
from data.features import SparseFeature
from models.heads.related.aitm import AITMConfig
from models.heads.related.choices import SamplingConfig
from models.products import head_tasks
from models.tables import WIDEST_ROW
from trainer.config.samples import passes_of

if TYPE_CHECKING:
    from trainer.config.run_config import Config


def _check_features(config: "Config") -> None:
    tables = {table.name for table in config.tables}
    used = {feature.table for feature in config.features.sparse}
    rows = {table.name: table.rows for table in config.tables}
    _refuse_twice("tables", [table.name for table in config.tables])
    _refuse_twice("features.sparse", [feature.name for feature in config.features.sparse])
    if not config.features.sparse:
        raise ValueError("features.sparse: needs at least one entry; a model without ids has nothing to shard")

    for column in config.features.columns:
        if column.startswith(ORACLE_PREFIX):
            raise ValueError(
                f"features: column {column!r} holds the true mean of a label; a model that reads it cheats"
            )

    for feature in config.features.sparse:
        if feature.table not in tables:
            raise ValueError(
                f"features.sparse: feature {feature.name!r} reads table {feature.table!r}; "
                f"{nearest(feature.table, tables)}"
            )

        if rows[feature.table] < feature.rows_needed:
            has = f"{feature.table!r} has {rows[feature.table]} rows"
            what = "parts" if feature.parts else "vocabulary" if feature.vocabulary else "buckets"
            raise ValueError(f"tables: {has}, but feature {feature.name!r} needs {feature.rows_needed} for its {what}")

    for name in sorted(tables - used):
        raise ValueError(f"tables: no feature reads table {name!r}; remove it or name it in a [[features.sparse]]")


def _check_vocabularies(config: "Config") -> None:
    """Features of one table have one vocabulary, or none has any."""
    first: dict[str, SparseFeature] = {}
    for feature in config.features.sparse:
        other = first.setdefault(feature.table, feature)
        for key in ("vocabulary", "unknown_rows", "min_count"):
            one, two = getattr(other, key), getattr(feature, key)
            if one != two:
                both = f"features {other.name!r} and {feature.name!r} share table {feature.table!r}"
                raise ValueError(f"features.sparse: {both}, but {key} is {one!r} of one and {two!r} of the other")


def _check_tasks(config: "Config") -> None:
    _refuse_twice("tasks", [task.name for task in config.tasks])
    if all(task.auxiliary for task in config.tasks):
        raise ValueError("tasks: every task is auxiliary; at least one must be evaluated")

    inputs = set(config.features.columns)
    for task in config.tasks:
        if task.name == "row":
            raise ValueError("tasks: 'row' is the number of the row in predictions; give the task another name")
        if task.label in inputs:
            raise ValueError(
                f"tasks: label {task.label!r} of task {task.name!r} is a feature too; "
                "a model that reads its label learns nothing"
            )


def _check_products(config: "Config") -> None:
    kinds = {task.name: task for task in config.tasks}
    for task in config.tasks:
        for name in task.of:
            factor = kinds.get(name)
            if factor is None:
                raise ValueError(f"tasks: {task.name!r} is a product of {name!r}; {nearest(name, set(kinds))}")
            if factor.kind != "binary":
                raise ValueError(f"tasks: {task.name!r} is a product of {name!r}, which is {factor.kind}, not binary")
            if factor.negative_rate is not None or factor.test_negative_rate is not None:
                raise ValueError(
                    f"tasks: {task.name!r} is a product of {name!r}, which so has no negative_rate; remove it"
                )


def _check_batches(config: "Config") -> None:
    for key in ("global_batch_size", "evaluation_batch_size"):
        size = getattr(config.data, key)
        if size is not None and size % config.data.lanes:
            raise ValueError(
                f"data.{key} = {size} is not a multiple of data.lanes = {config.data.lanes}; "
                "every lane gives the same number of rows"
            )


def _check_passes(config: "Config") -> None:
    passes = passes_of(config.train.samples)
    if passes is None:
        return
    if passes > 1 and not config.data.repeat:
        raise ValueError(f"train.samples = {config.train.samples!r} needs data.repeat = true")
    schedules = {"dense": config.optimizer.dense, "sparse": config.optimizer.sparse}
    for name, schedule in schedules.items():
        if config.data.order == "chronological" and schedule.decay != "none":
            raise ValueError(
                f"optimizer.{name}.decay = {schedule.decay!r} ends with the data, which may grow: set decay = 'none', "
                "or count train.samples"
            )


def _check_evaluations(config: "Config") -> None:
    if config.evaluate.next_window and config.data.order != "chronological":
        raise ValueError(
            f"evaluate.next_window: data.order is {config.data.order!r}, in which there is no next window; set "
            'data.order = "chronological", or remove next_window'
        )
    if config.data.test is None and not config.evaluate.next_window:
        raise ValueError("data.test: names no dataset to evaluate on; name one, or set evaluate.next_window = true")
    if config.train.patience is not None and not (config.evaluate.at_samples and config.data.test):
        raise ValueError(
            f"train.patience = {config.train.patience} counts milestones on data.test; name both, that and "
            "evaluate.at_samples, or remove it"
        )


def _check_groups(config: "Config") -> None:
    for name in config.evaluate.by:
        if config.evaluate.by.count(name) > 1:
            raise ValueError(f"evaluate.by names column {name!r} twice; name it once")


def _check_milestones(config: "Config") -> None:
    total = config.train.samples
    samples = [milestone.samples for milestone in config.evaluate.at_samples]
    texts = [milestone.text for milestone in config.evaluate.at_samples]
    if samples != sorted(set(samples)) or 0 in samples:
        raise ValueError(f"evaluate.at_samples = {texts} must ascend from above 0, each milestone once")
    if samples and isinstance(total, int) and samples[-1] > total:
        beyond = f"milestone {texts[-1]} lies beyond train.samples = {total}"
        raise ValueError(f"evaluate.at_samples: {beyond}; train longer or drop it")


def _check_init(config: "Config") -> None:
    if config.init is None:
        return
    if config.init.source == config.run.dir:
        raise ValueError(f"init.from: {config.run.dir!r} is this run's own folder, from which it goes on by itself")
    names = [table.name for table in config.tables]
    for key in ("tables", "freeze"):
        for pattern in getattr(config.init, key):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"init.{key}: no table is called {pattern!r}; {nearest(pattern, set(names))}")

    for name in names:
        if config.init.freezes(name) and not config.init.takes(name):
            raise ValueError(f"init.freeze: table {name!r} is not among init.tables, so it would never learn anything")

    for table in config.tables:
        if config.init.freezes(table.name) and config.optimizer.sparse.of(table).moves_by_zero:
            raise ValueError(
                f"init.freeze leaves table {table.name!r} as it is by gradients of zero, which move it under adam or "
                "with weight_decay; use another optimizer for it"
            )


def _check_balance(config: "Config") -> None:
    balance = config.balance
    if config.init is None or balance.at != "features" or not balance.looks_at_shared:
        return
    if all(config.init.freezes(table.name) for table in config.tables):
        raise ValueError(
            f"balance.method = {balance.method!r} works on what the tables give to the head, and init.freeze leaves no "
            "table to train; freeze fewer, or remove [balance]"
        )


def _check_chain(config: "Config") -> None:
    if not isinstance(config.model, AITMConfig):
        return
    kinds = {task.name: task.kind for task in head_tasks(config.tasks)}
    for name in config.model.in_chain(list(kinds)):
        if kinds.get(name, "binary") != "binary":
            binary = [name for name, kind in kinds.items() if kind == "binary"]
            raise ValueError(
                f"model.chain: task {name!r} is a {kinds[name]}, and a chain is of binary tasks, from the one that "
                f"happens first; give model.chain = some of {binary}"
            )


def _check_temperature(config: "Config") -> None:
    model = config.model
    if isinstance(model, SamplingConfig) and model.lowest_temperature > model.temperature:
        raise ValueError(
            f"model.lowest_temperature = {model.lowest_temperature} is above model.temperature = {model.temperature}, "
            "from which it falls; give a lower one"
        )


def _check_widths(config: "Config") -> None:
    for table in config.tables_held:
        if table.dim > WIDEST_ROW:
            count = config.embeddings_per_id
            most = WIDEST_ROW // count // 4 * 4
            raise ValueError(
                f"tables: {table.name!r} has dim = {table.dim // count}, and {config.model.head} keeps {count} such "
                f"embeddings in a row, which has {WIDEST_ROW} numbers at most; set dim = {most} or less"
            )


def _check_weight_decay(config: "Config") -> None:
    for table in config.tables:
        optimizer = config.optimizer.sparse.of(table)
        if optimizer.weight_decay and optimizer.name in ("adagrad", "sgd"):
            raise ValueError(
                f"optimizer.sparse.weight_decay = {optimizer.weight_decay} would not be applied to table "
                f"{table.name!r}: fbgemm's {optimizer.name} knows none; remove it, or use 'rowwise_adagrad' or 'adam'"
            )


def _check_skipping(config: "Config") -> None:
    if config.train.on_non_finite != "skip":
        return
    for table in config.tables:
        if config.optimizer.sparse.of(table).moves_by_zero:
            raise ValueError(
                'train.on_non_finite = "skip" leaves tables as they are by a gradient of zero, which moves '
                f"{table.name!r} under adam or with weight_decay; use another optimizer for it, or "
                'on_non_finite = "stop"'
            )


RULES = (
    _check_features,
    _check_vocabularies,
    _check_tasks,
    _check_products,
    _check_batches,
    _check_passes,
    _check_evaluations,
    _check_groups,
    _check_milestones,
    _check_init,
    _check_balance,
    _check_chain,
    _check_temperature,
    _check_widths,
    _check_weight_decay,
    _check_skipping,
)


def _refuse_twice(where: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{where}: {twice!r} appears twice; names must differ")


def nearest(name: str, known: set[str]) -> str:
    """What to write in place of `name`, for a message: the known name that is most like it, or all of them."""
    matches = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"known here: {', '.join(sorted(known))}"
