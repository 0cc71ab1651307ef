"""The base of every configuration class, and the types its fields share."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from data.counts import parse_bytes, parse_count


class Settings(BaseModel):
    """Frozen, and an unknown key is an error. The docstring under a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


Count = Annotated[int, BeforeValidator(parse_count)]
"""A count of samples: 4096, "300k", "2.1M" or "70B"; read exactly."""
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
"""A size in memory: 2_000_000, "500MB" or "1.5GiB"."""
