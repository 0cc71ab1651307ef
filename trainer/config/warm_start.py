"""The `[init]` section of a config: another run whose weights a new one begins with."""

from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from data.settings import Settings
from data.storage.paths import local_path


class InitConfig(Settings):
    """Begin with the weights of another run (warm start): tables by name and width, the head by name and shape. What a
    run has measured on its data (means, scales, boundaries, label means, vocabularies) comes with them."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    source: Annotated[str, AfterValidator(lambda text: str(local_path(text)))] = Field(alias="from")
    """Folder of that run."""
    checkpoint: str = "latest"
    """As `adatt evaluate --checkpoint` takes it. The checkpoint that it meant at the first start is kept."""
    tables: tuple[str, ...] = ("*",)
    """Names, or patterns such as "user*", of the tables to take; [] for none."""
    head: bool = True
    """false: the head begins fresh. It does so too where it is of another kind."""
    optimizer: bool = True
    """Whether the optimizers go on with what they know of the weights that are taken."""
    freeze: tuple[str, ...] = ()
    """Names or patterns of tables that are taken and not trained."""

    def takes(self, table: str) -> bool:
        """Whether a table is among `tables`."""
        return any(fnmatchcase(table, pattern) for pattern in self.tables)

    def freezes(self, table: str) -> bool:
        """Whether a table is among `freeze`."""
        return any(fnmatchcase(table, pattern) for pattern in self.freeze)
