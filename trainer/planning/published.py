"""Published trainings beside what the model predicts for them: DLRM on A100s by TorchRec itself.

Source: facebookresearch/dlrm, torchrec_dlrm/README.MD ("Preliminary Training Results"; Criteo 1TB, AWS p4d, 8 A100 of
40 GB): tables of 91 GiB in float32, embeddings of 128, one id for each of 26 features, SGD, TF32 as torch had it by
default then. The run on one GPU, whose tables do not fit its memory, is left out. The launches of a step are fitted to
the first run, so that its error says nothing; the others are predictions.

The range with Adagrad (0.93 to 1.19 million samples/s, batch 16,384) is known without its settings: it is taken as the
same model with one number of state for each weight.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from models.cost import HeadCost
from models.tables import TableConfig
from trainer.planning.devices import A100_P4D
from trainer.planning.placed import placed_tables
from trainer.planning.prediction import predict_step
from trainer.planning.topology import Cluster
from trainer.planning.workload import Workload
from trainer.sharding.options import FusedSharder
from trainer.sharding.plan import spread_tables
from trainer.sharding.settings import (
    ShardedTableConfig,
    ShardingConfig,
    SparseOptimizerConfig,
    SparseOptimizerName,
)

_DIM = 128
_ROWS = [
    *(45_833_188, 36_746, 17_245, 7_413, 20_243, 3, 7_114, 1_441, 62, 29_275_261, 1_572_176, 345_138, 10),
    *(2_209, 11_267, 128, 4, 974, 14, 48_937_457, 11_316_796, 40_094_537, 452_104, 12_606, 104, 35),
]
_DENSE = (13, 512, 256, _DIM)
_INTERACTED = 26 + 1
"""Embeddings, and the output of the dense layers: their products in pairs are the over layers' input."""
_OVER = (_DIM + _INTERACTED * (_INTERACTED - 1) // 2, 1024, 1024, 512, 256, 1)


@dataclass(frozen=True)
class PublishedRun:
    """A training that someone has timed."""

    gpus: int
    global_batch_size: int
    optimizer: SparseOptimizerName
    low: float
    """Samples per second."""
    high: float
    note: str = ""


RUNS = (
    PublishedRun(8, 2048, "sgd", 284_615, 284_615, "launches are fitted to it"),
    PublishedRun(8, 16_384, "sgd", 1_671_168, 1_671_168),
    PublishedRun(4, 16_384, "sgd", 1_458_176, 1_458_176),
    PublishedRun(8, 65_536, "sgd", 5_373_952, 5_373_952),
    PublishedRun(8, 16_384, "adagrad", 930_000, 1_190_000, "settings not known"),
)


@dataclass(frozen=True)
class Checked:
    """A published run and its prediction."""

    run: PublishedRun
    predicted: float
    """Samples per second."""

    @property
    def error(self) -> float:
        """Of the predicted rate, as a share of the published one, or of the nearer end of its range; 0 inside it."""
        nearest = min(max(self.predicted, self.run.low), self.run.high)
        return self.predicted / nearest - 1


def check_published() -> list[Checked]:
    """All published runs, predicted."""
    return [Checked(run, predict(run)) for run in RUNS]


def predict(run: PublishedRun) -> float:
    """Samples per second, by the same planner and the same model as any training."""
    tables = tuple(ShardedTableConfig(name=f"table_{index}", rows=rows, dim=_DIM) for index, rows in enumerate(_ROWS))
    cluster = Cluster(A100_P4D, run.gpus, run.gpus)
    optimizer = SparseOptimizerConfig(name=run.optimizer)
    sharder = FusedSharder(tables, ShardingConfig(), optimizer, run.global_batch_size)
    rows = run.global_batch_size // run.gpus
    plan = spread_tables(_Tables(tables), sharder, cluster.ranks, cluster.budget, rows, saves=False)
    _, seconds = predict_step(placed_tables(plan, sharder), dlrm(tables, run.global_batch_size), cluster)
    return run.global_batch_size / seconds


def dlrm(tables: tuple[TableConfig, ...], global_batch_size: int) -> Workload:
    """Its work: FLOPs and parameters of its layers and of the products in pairs."""
    layers = [*pairwise(_DENSE), *pairwise(_OVER)]
    weights = sum(inputs * outputs for inputs, outputs in layers)
    widths = sum(_DENSE[1:]) + sum(_OVER)
    pairs = _INTERACTED * _INTERACTED * _DIM

    return Workload(
        global_batch_size=global_batch_size,
        ids_per_row={table.name: 1.0 for table in tables},
        features_of={table.name: 1 for table in tables},
        inputs=_INTERACTED * _DIM,
        dense_width=_DENSE[0],
        labels=1,
        head=HeadCost(weights + widths, 2 * (weights + pairs)),
        activation_bytes=4 * (widths + _INTERACTED * _DIM),
        precision="tf32",
        dense_state=0,
        bytes_per_row=4 * (26 + 13 + 1),
        reading_threads=8,
    )


class _Tables(torch.nn.Module):
    """The tables without memory, as the planner takes them."""

    def __init__(self, tables: tuple[TableConfig, ...]) -> None:
        super().__init__()
        configs = [
            EmbeddingBagConfig(
                name=table.name,
                num_embeddings=table.rows,
                embedding_dim=table.dim,
                feature_names=[f"feature of {table.name}"],
            )
            for table in tables
        ]
        self.embeddings = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
