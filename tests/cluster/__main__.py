"""Trainings on several hosts, and what becomes of them in harm: `make cluster-check`.

    python -m tests.cluster [NAME…]

Prints a table for docs/operations.md, a row a case; exit 1 if one is not as promised. Hosts are network namespaces,
which need root; where the machine cannot make them the cases are skipped, with the reason.
"""

import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from tests.cluster.cases import CASES, Case
from tests.cluster.hosts import alone, reason_against, reason_against_switch
from tests.cluster.site import OneHost, Site, write_data

AT_ONCE = 3
"""Cases that run at the same time: for most of it they wait."""


def main(names: list[str]) -> int:
    """The exit code."""
    unknown = set(names) - {case.name for case in CASES}
    if unknown:
        sys.exit(f"error: no case is called {sorted(unknown)[0]!r}; there are {', '.join(c.name for c in CASES)}")

    chosen = [case for case in CASES if not names or case.name in names]
    begin = time.monotonic()
    _print("| case | harm | within | kept | seen | s |\n|---|---|---|---|---|---|\n")
    reason = reason_against()
    if reason:
        for case in chosen:
            _print_row(case, "skipped", reason, 0)
        return 0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: everything is removed
    with tempfile.TemporaryDirectory(prefix="adatt-cluster-") as folder, alone():
        broken = _run_all(chosen, Path(folder))

    _print(f"\n{len(chosen)} cases in {time.monotonic() - begin:,.0f} s, {broken} not as promised\n")
    return 1 if broken else 0


def _run_all(cases: list[Case], folder: Path) -> int:
    """How many are not as promised."""
    data = write_data(folder / "data")
    one_host = OneHost(folder, data)
    broken = 0
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        sites = [Site(f"{number}", folder / case.name, data, one_host) for number, case in enumerate(cases)]
        running = [pool.submit(partial(_run, case, site)) for case, site in zip(cases, sites, strict=True)]
        for done in as_completed(running):
            broken += done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return broken


def _run(case: Case, site: Site) -> bool:
    """Whether a promise was broken."""
    reason = reason_against_switch() if case.needs_switch else None
    if reason:
        _print_row(case, "skipped", reason, 0)
        return False

    begin = time.monotonic()
    try:
        seen, kept = case.run(site), True
    except Exception as error:  # whatever it is, the other cases go on
        seen, kept = f"{type(error).__name__}: {error}", False
    _print_row(case, "yes" if kept else "**NO**", seen, time.monotonic() - begin)
    return not kept


def _print_row(case: Case, kept: str, seen: str, seconds: float) -> None:
    bound = f"{case.bound} s" if case.bound else "–"
    _print(f"| {case.name} | {case.harm} | {bound} | {kept} | {seen} | {seconds:.0f} |\n")


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        ended = main(sys.argv[1:])
    except KeyboardInterrupt:
        ended = 130
    except SystemExit as told:
        ended = told.code if isinstance(told.code, int) else 2
        if isinstance(told.code, str):
            sys.stderr.write(f"{told.code}\n")
    os._exit(ended)  # everything is removed; threads of cases that were cut short still wait for what is not there
