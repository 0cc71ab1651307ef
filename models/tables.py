"""Embedding tables as the config describes them, and their names as modules."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from data.settings import Settings

WIDEST_ROW = 1 << 14
TableType = Literal["float32", "float16"]
TORCH_TYPES: dict[TableType, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


class TableConfig(Settings):
    """An embedding table."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    rows: int = Field(gt=0, le=1 << 40)
    """Rows; ids are 0 … rows-1, or folded into them where the feature says `hash`."""
    dim: int = Field(gt=0, le=WIDEST_ROW, multiple_of=4)
    """Width of an embedding; fbgemm needs a multiple of 4."""
    pooling: Literal["sum", "mean"] = "sum"
    """How the embeddings of a row's ids become one."""
    init: float = Field(default=0.05, ge=0)
    """Initial values are uniform in ±init."""
    dtype: TableType = "float32"
    """float16: half the memory. An update is computed in float32 and rounded to the nearest float16, so that one below
    1/4096 of a weight may be lost; the optimizer's state stays float32."""


def table_key(name: str) -> str:
    """The table's name as a module, which state dicts and plans hold.

    torch refuses names that a dictionary of modules has itself, such as `items`, `pop` or `training`; these get a
    prefix that no name can have. All others stay as they are, and so do the checkpoints that hold them.
    """
    return f"table:{name}" if hasattr(nn.ModuleDict(), name) else name


def weight_name(table: str) -> str:
    """The name of a table's weights in the state dict of a whole model."""
    return f"features.embeddings.embedding_bags.{table_key(table)}.weight"
