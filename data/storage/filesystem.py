"""The filesystem behind a URI: whatever pyarrow.fs opens, or a path on a disk."""

import pyarrow as pa
from pyarrow import fs

from data.errors import DataError, one_line
from data.storage.paths import full_path
from data.storage.uris import refuse_credentials


def open_uri(uri: str, what: str = "dataset") -> tuple[fs.FileSystem, str]:
    """The filesystem behind a URI or local path, and the path on it; DataError if there is none.

    `what` it is of, for messages.
    """
    if "://" not in uri:
        try:
            return fs.LocalFileSystem(), full_path(uri).absolute().as_posix()
        except ValueError as error:
            raise DataError(f"{what} {error}") from error

    try:
        refuse_credentials(uri)
    except ValueError as error:
        raise DataError(f"{error}") from error
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(f"{what} {uri}: {one_line(error)}; give a local path or a URI that pyarrow.fs opens") from error

    return filesystem, root.rstrip("/")
