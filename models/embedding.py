"""Sparse ids → embeddings; with the dense features, the input of every head.

Shapes: B rows, D dense features, F = sum of the features' dims + D.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from data.features import Features
from data.settings import Settings


class TableConfig(Settings):
    """An embedding table."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    rows: int = Field(gt=0, le=1 << 40)
    """Rows; ids are 0 … rows-1, or folded into them where the feature says `hash`."""
    dim: int = Field(gt=0, le=1 << 14, multiple_of=4)
    """Width of an embedding; fbgemm needs a multiple of 4."""
    pooling: Literal["sum", "mean"] = "sum"
    """How the embeddings of a row's ids become one."""
    init: float = Field(default=0.01, ge=0)
    """Initial values are uniform in ±init."""


_POOLING = {"sum": PoolingType.SUM, "mean": PoolingType.MEAN}


class FeatureLayer(nn.Module):
    """One pooled embedding per sparse feature in declared order, then the dense features.

    The sharded collection returns its embeddings in an order that follows the plan, so they are picked by key:
    otherwise the columns would be permuted whenever world size or plan change.
    """

    def __init__(self, tables: tuple[TableConfig, ...], features: Features, device: torch.device) -> None:
        super().__init__()
        dims = {table.name: table.dim for table in tables}
        self.keys = [feature.name for feature in features.sparse]
        self.width = sum(dims[feature.table] for feature in features.sparse) + len(features.dense)
        self.embeddings = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=table.name,
                    num_embeddings=table.rows,
                    embedding_dim=table.dim,
                    feature_names=[feature.name for feature in features.sparse if feature.table == table.name],
                    pooling=_POOLING[table.pooling],
                )
                for table in tables
            ],
            device=device,
        )

    def forward(self, sparse: KeyedJaggedTensor, dense_BD: torch.Tensor) -> torch.Tensor:
        """features_BF: float32."""
        pooled = self.embeddings(sparse)
        return torch.cat([pooled[key] for key in self.keys] + [dense_BD], dim=1)
