"""A dataset that grows at its end: new time windows behind those that are known, old ones removed once trained.

    known     day 1 │ day 2 │ day 3
    now               day 2 │ day 3 │ day 4 │ day 5
    grown     day 1 │ day 2 │ day 3 │ day 4 │ day 5     files keep their numbers, new ones follow

Lanes are cut window by window (`data.order`), so that all rows of the known windows stay where they were.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from data.discovery.footer import same_columns
from data.discovery.windows import number_windows
from data.errors import DataError
from data.manifest import Manifest, digest_of, file_change, file_states, way_out


def grown(known: Manifest, now: Manifest, samples: int, lanes: int) -> Manifest:
    """`known` with the windows of `now` that come after its own; `known` itself where there are none.

    Windows whose rows have all been trained, after so many samples in so many lanes, may be gone. Raises DataError for
    any other change. Files that could not be read, now or before, count as they did before.
    """
    before, after = file_states(known), file_states(now)
    windows = number_windows([*known.window_names, *now.window_names]).tolist()
    window_of = dict(zip([*known.files, *now.files], windows, strict=True))
    last_known = max(window_of[name] for name in known.files)

    def refused(name: str, advice: str) -> DataError:
        change = file_change(name, before.get(name), after.get(name))
        return DataError(f"data.train = {now.uri!r} has changed since the run began: {change}{advice}")

    unread_before = {name for name, _ in known.left_out}
    new = [name for name in now.files if name not in before and name not in unread_before]
    for name in new:
        if window_of[name] <= last_known:
            raise refused(name, ", but not later than all that was known; move it into a later window, or remove it")
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            raise refused(name, way_out(before[name], after[name]))

    unread_now = {name for name, _ in now.left_out}
    gone = sorted(before.keys() - after.keys() - unread_now)
    untrained = _untrained_files(known, samples, lanes)
    partly = {window_of[name] for name in before.keys() & after.keys()}
    for name in gone:
        if name in untrained:
            raise refused(name, ", but not all rows of its window have been trained; restore it")
        if window_of[name] in partly:
            raise refused(name, ", but other files of its window are there; restore it, or remove the whole window")

    return _appended(known, now, new) if new else known


def _untrained_files(known: Manifest, samples: int, lanes: int) -> set[str]:
    """Files of windows of which some lane has rows left."""
    end_of_window = np.cumsum(np.bincount(known.window, weights=known.rows))
    is_left = np.ceil(end_of_window / lanes) * lanes > samples
    windows = number_windows(known.window_names)
    return {name for name, window in zip(known.files, windows, strict=True) if is_left[window]}


def _appended(known: Manifest, now: Manifest, new: list[str]) -> Manifest:
    """`known` with some files of `now` behind its own."""
    place = {name: len(known.files) + index for index, name in enumerate(new)}
    place_of_file = np.array([place.get(name, -1) for name in now.files])
    is_new = place_of_file[now.file] >= 0
    groups = np.flatnonzero(is_new)
    groups = groups[np.argsort(place_of_file[now.file[groups]], kind="stable")]

    schemas, layouts = schemas_with(known, now, new)
    digests = (*known.digests, *(now.digests[now.files.index(name)] for name in new))
    files = (*known.files, *new)
    return replace(
        known,
        files=files,
        file=np.concatenate([known.file, place_of_file[now.file[groups]]]),
        group=np.concatenate([known.group, now.group[groups]]),
        rows=np.concatenate([known.rows, now.rows[groups]]),
        bytes=np.concatenate([known.bytes, now.bytes[groups]]),
        digests=digests,
        fingerprint=digest_of(zip(files, digests, strict=True)),
        history=(*known.history, known.fingerprint),
        left_out=(*known.left_out, *(entry for entry in now.left_out if entry[0] not in known.files)),
        other_schemas=tuple(schemas),
        layouts=layouts,
    )


def schemas_with(
    known: Manifest, now: Manifest, names: list[str]
) -> tuple[list[tuple[str, pa.Schema]], tuple[int, ...]]:
    """The further schemas, and which of all schemas each file has, where some files are those of `now`.

    Those that are not known follow behind the others.
    """
    schemas = [known.schema, *(schema for _, schema in known.other_schemas)]
    others = list(known.other_schemas)
    schemas_now = [now.schema, *(schema for _, schema in now.other_schemas)]
    layout_now = dict(zip(now.files, now.layouts, strict=True))
    layouts = dict(zip(known.files, known.layouts or [0] * len(known.files), strict=True))
    for name in names:
        schema = schemas_now[layout_now[name]]
        found = next((index for index, other in enumerate(schemas) if same_columns(schema, other)), None)
        if found is None:
            found = len(schemas)
            schemas.append(schema)
            others.append((name, schema))
        layouts[name] = found
    return others, tuple(layouts.values())
