"""The filesystem behind a URI: whatever pyarrow.fs opens, or a path on a disk."""

from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from data.errors import DataError, one_line
from data.storage.paths import full_path

_SECRET = ("key", "secret", "token", "password", "credential", "sas", "sig")
"""Parts of the names of options that hold a secret."""


def refuse_credentials(uri: str) -> None:
    """Raises ValueError, which does not quote it, if a URI holds a secret: it would be printed, and kept in runs."""
    if "://" not in uri:
        return
    scheme = uri.partition("://")[0]
    try:
        parts = urlsplit(uri)
        options = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError as error:
        raise ValueError(f"a URI of {scheme} that cannot be read ({error})") from error
    is_key = scheme == "s3" and parts.username not in (None, "anonymous")
    if parts.password is not None or is_key or any(part in name for name in options for part in _SECRET):
        raise ValueError(
            f"a URI of {scheme} holds credentials; leave them out of it, and give them by the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3)"
        )


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem behind a URI or local path, and the path on it; DataError if there is none."""
    if "://" not in uri:
        try:
            return fs.LocalFileSystem(), full_path(uri).absolute().as_posix()
        except ValueError as error:
            raise DataError(f"dataset {error}") from error

    try:
        refuse_credentials(uri)
    except ValueError as error:
        raise DataError(f"{error}") from error
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(
            f"dataset {uri}: {one_line(error)}; give a local path or a URI that pyarrow.fs opens"
        ) from error

    return filesystem, root.rstrip("/")
