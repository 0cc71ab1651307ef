"""The network of an export: plain torch, the tables beside the head, and one output for each task.

    ids, offsets[, weights] of each sparse feature ─► sum of embeddings ─┐
    dense_BD ────────────────────────────────────────────────────────────┴► the ranker ─► {task: prediction_B}

What follows the sums is the trained model's own code (`FeatureLayer.join`, `Ranker.logits`).

Shapes: B rows, N ids of a feature, E width of a table, R its rows, D dense inputs, T tasks.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from data.features import Features
from models.losses import predictions
from models.ranker import Ranker
from models.tasks import TaskConfig
from trainer.export.tables import StoredTable

_TABLE = "table "
"""Before a table's name: torch refuses some names of modules, such as `items`."""
OF_TABLES = f"tables.{_TABLE}"
"""How the names of the tables' tensors begin: OF_TABLES + table + .weight_RE, .scale_R or .offset_R."""
Sparse = Mapping[str, Mapping[str, torch.Tensor]]
"""By feature: `ids` [N] and `offsets` [B], int64; `weights` [N], float32, of a feature that has them."""


class ServedTable(nn.Module):
    """An embedding table that sums."""

    def __init__(self, table: StoredTable) -> None:
        super().__init__()
        self.weight_RE = nn.Buffer(table.weight_RE)
        self.scale_R = None if table.scale_R is None else nn.Buffer(table.scale_R)
        self.offset_R = None if table.offset_R is None else nn.Buffer(table.offset_R)

    def forward(self, ids_N: torch.Tensor, offsets_B: torch.Tensor, weights_N: torch.Tensor | None) -> torch.Tensor:
        """sums_BE: float32."""
        if self.weight_RE.dtype == torch.float32:
            return _sum(ids_N, self.weight_RE, offsets_B, weights_N)
        values_NE = self.weight_RE[ids_N].float()
        if self.scale_R is not None and self.offset_R is not None:
            values_NE = values_NE * self.scale_R[ids_N].unsqueeze(1) + self.offset_R[ids_N].unsqueeze(1)
        places_N = torch.arange(ids_N.shape[0], device=ids_N.device)
        return _sum(places_N, values_NE, offsets_B, weights_N)


class ServedModel(nn.Module):
    """From table rows and numbers to predictions."""

    shift_T: torch.Tensor

    def __init__(
        self, ranker: Ranker, tables: Mapping[str, StoredTable], features: Features, tasks: tuple[TaskConfig, ...]
    ) -> None:
        """`ranker`: whose own tables are not used, and are removed from it."""
        super().__init__()
        del ranker.features.embeddings
        self.ranker = ranker
        self.tables = nn.ModuleDict({f"{_TABLE}{name}": ServedTable(table) for name, table in tables.items()})
        self.features = features
        self.tasks = tasks
        shifts = [math.log(task.negative_rate or 1.0) for task in tasks]
        self.register_buffer("shift_T", torch.tensor(shifts))
        self.requires_grad_(False)

    def forward(self, sparse: Sparse, dense: torch.Tensor) -> dict[str, torch.Tensor]:
        """A binary task's probability, a regression's value, for each row; `dense`: [B, D], float32."""
        sums = {}
        totals = []
        for feature in self.features.sparse:
            given = sparse[feature.name]
            ids_N, offsets_B, weights_N = given["ids"], given["offsets"], given.get("weights")
            sums[feature.name] = self.tables[f"{_TABLE}{feature.table}"](ids_N, offsets_B, weights_N)
            totals.append(_totals(ids_N, offsets_B, weights_N))

        totals_SB = torch.stack(totals) if totals else dense.new_zeros(0, dense.shape[0])
        _, logits_BT = self.ranker.logits(self.ranker.features.join(sums, totals_SB, dense))
        predictions_BT = predictions(logits_BT + self.shift_T, self.ranker.is_binary_T)
        return {task.name: predictions_BT[:, index] for index, task in enumerate(self.tasks)}


def _totals(ids_N: torch.Tensor, offsets_B: torch.Tensor, weights_N: torch.Tensor | None) -> torch.Tensor:
    """Ids of each row, or the sum of their weights: [B]."""
    ones_N1 = torch.ones(ids_N.shape[0], 1, device=ids_N.device)
    return _sum(torch.arange(ids_N.shape[0], device=ids_N.device), ones_N1, offsets_B, weights_N)[:, 0]


def _sum(
    places_N: torch.Tensor, values_RE: torch.Tensor, offsets_B: torch.Tensor, weights_N: torch.Tensor | None
) -> torch.Tensor:
    """sums_BE: of the values at the places from each row's offset to the next one's."""
    return functional.embedding_bag(places_N, values_RE, offsets_B, mode="sum", per_sample_weights=weights_N)
