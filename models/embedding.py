"""Sparse ids → embeddings; with the dense features, the input of every head.

Shapes: B rows, S sparse features, E width of a table, D dense features, F = sum of the sparse features' E, + D.
"""

from collections.abc import Collection, Mapping

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_configs import DataType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.features import Features
from models.columns import columns_of
from models.tables import TableConfig, table_key

_DATA_TYPES = {"float32": DataType.FP32, "float16": DataType.FP16}


class FeatureLayer(nn.Module):
    """One pooled embedding per sparse feature in declared order, then the dense features (`models.columns`).

    The sharded collection returns its embeddings in an order that follows the plan, so they are picked by key:
    otherwise the columns would be permuted whenever world size or plan change.

    All tables sum, and means are taken here. TorchRec 1.8 cannot be asked for them: where one table with means is split
    by rows, it divides the sums of every table that is not split too, and their means a second time.
    """

    def __init__(
        self,
        tables: tuple[TableConfig, ...],
        features: Features,
        device: torch.device,
        frozen: Collection[str] = (),
        rows_held: Mapping[str, int] | None = None,
        embeddings_per_id: int = 1,
    ) -> None:
        """`frozen`: tables that are not trained; `rows_held`: by table, more rows than it has, of which no id reads."""
        super().__init__()
        self.tables = tables
        self.rows_held = {table.name: table.rows for table in tables} | dict(rows_held or {})
        table_of = {table.name: table for table in tables}
        self.keys = [feature.name for feature in features.sparse]
        poolings = [feature.pooling or table_of[feature.table].pooling for feature in features.sparse]
        self.is_frozen = [feature.table in frozen for feature in features.sparse]
        self.is_mean = [pooling == "mean" for pooling in poolings]
        self.is_weighted = features.is_weighted
        self.columns = columns_of(tables, features, embeddings_per_id)
        self.width = self.columns.width
        configs = [_bag_config(table, self.rows_held[table.name], features) for table in tables]
        self.embeddings = EmbeddingBagCollection(tables=configs, is_weighted=features.is_weighted, device=device)

    def forward(self, sparse: KeyedJaggedTensor, dense_BD: torch.Tensor) -> torch.Tensor:
        """features_BF: float32. `sparse` holds the features in declared order."""
        pooled = self.embeddings(sparse)
        totals = sparse.lengths()
        if self.is_weighted:
            totals = torch.segment_reduce(sparse.weights(), "sum", lengths=totals, unsafe=True)
        return self.join(pooled, totals.view(len(self.keys), -1), dense_BD)

    def join(self, pooled: Mapping[str, torch.Tensor], totals_SB: torch.Tensor, dense_BD: torch.Tensor) -> torch.Tensor:
        """features_BF, of each feature's sum of embeddings and what a mean of them is divided by: as many as there are
        ids, or the sum of their weights.
        """
        parts = []
        for index, key in enumerate(self.keys):
            part_BE = pooled[key].detach() if self.is_frozen[index] else pooled[key]
            if self.is_mean[index]:
                total_B = totals_SB[index]
                part_BE = part_BE / torch.where(total_B == 0, 1, total_B).unsqueeze(1)  # a row without ids keeps its 0
            parts.append(part_BE)

        return torch.cat([*self._in_order(parts), dense_BD], dim=1)

    def _in_order(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """Of each id's embeddings side by side: the first ones of all features, then the second ones, and so on."""
        if self.columns.embeddings_per_id == 1:
            return parts
        ordered = []
        for number in range(self.columns.embeddings_per_id):
            for part_BE, width in zip(parts, self.columns.widths, strict=False):
                ordered.append(part_BE[:, number * width : (number + 1) * width])
        return ordered


def _bag_config(table: TableConfig, rows: int, features: Features) -> EmbeddingBagConfig:
    """A table as torchrec takes it. It always sums: `FeatureLayer` divides where means are wanted."""
    names = [feature.name for feature in features.sparse if feature.table == table.name]
    return EmbeddingBagConfig(
        name=table_key(table.name),
        num_embeddings=rows,
        embedding_dim=table.dim,
        feature_names=names,
        pooling=PoolingType.SUM,
        data_type=_DATA_TYPES[table.dtype],
    )
