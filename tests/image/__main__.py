"""Builds the image and runs it: `make image-check`. Prints the table of docs/operations.md; exit 1 where a row fails.

    python -m tests.image [FOLDER]

FOLDER keeps the base, wheels and layers for the next time: by default $XDG_CACHE_HOME/adatt-image (about 5 GB).
"""

import configparser
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.checks import Table, end_on_sigterm, missing_tools, refused, rows_once, run, skip, wait_until
from tests.code_shape import PACKAGES
from tests.image.build import (
    HOME,
    SECRET,
    Builder,
    build_image,
    fetch_wheels,
    image_config,
    layer_bytes,
    make_base,
    megabytes,
    mounted_image,
    open_builder,
)
from tests.image.container import Engine
from trainer.run.directory import RunDirectory
from trainer.run.jsonl import read_records
from trainer.run.starts import read_starts

TOOLS = {
    "buildah": ["buildah"],
    "debootstrap": ["debootstrap"],
    "debian-archive-keyring": [],
    "runc": ["runc"],
}
NOT_IN_THE_IMAGE = ("make", "gcc", "cc", "git", "curl", "hadolint", "ruff", "mypy", "pytest")
SMALL = ("--set", "train.samples=60k", "--set", 'evaluate.at_samples=["30k","60k"]')
STOPPED = ("--set", "run.dir=runs/stopped", "--set", "train.samples=60k", "--set", 'evaluate.at_samples=["60k"]')
STRANGER = 4711
OWN_MOUNTS = "ADATT_OWN_MOUNTS"
CONFIG = "configs/quickstart.toml"

LOOK_AROUND = """
cat /proc/1/comm
id -u
sed -n 's/^CapEff:\\t//p' /proc/self/status
for place in / /etc /opt/adatt /adatt /adatt/configs; do
    touch $place/written 2>&1 | grep -q 'Read-only file system' || echo "$place can be written to"
done
touch /tmp/written /adatt/runs/written && rm /adatt/runs/written
"""


def main() -> int:
    """The exit code."""
    end_on_sigterm()
    if reason := missing_tools(TOOLS) or refused("unshare", "--mount"):
        return skip(reason)

    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(sys.argv[1] if sys.argv[1:] else f"{caches}/adatt-image").expanduser().absolute()
    builder = open_builder(cache)
    if reason := builder.lacks():
        return skip(reason)

    _leave_no_mounts()
    table = Table()
    _build(table, builder)
    with mounted_image(builder) as root, tempfile.TemporaryDirectory(prefix="adatt-image-") as folder:
        _look_at(table, builder, root)
        engine = Engine(root, image_config(builder), Path(folder))
        engine.prepare()
        for what, check in CHECKS.items():
            with table.row(what) as seen:
                seen.append(check(engine))

    table.close()
    return 0


def _leave_no_mounts() -> None:
    """Goes on in a namespace in which all mounts end with this process, however it ends."""
    if os.environ.get(OWN_MOUNTS) is None:
        os.environ[OWN_MOUNTS] = ""
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "tests.image", *sys.argv[1:]])


def _build(table: Table, builder: Builder) -> None:
    with table.row("`hadolint Dockerfile`") as seen:
        hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert hadolint, "no hadolint beside this Python: make setup"
        run(hadolint, HOME / "Dockerfile")
        seen.append("clean")
    with table.row("base by debootstrap") as seen:
        seen.append(make_base(builder))
    with table.row("`pip download`") as seen:
        seen.append(fetch_wheels(builder))
    with table.row("build") as seen:
        seen.append(build_image(builder))
        base, *others = layer_bytes(builder)
        seen.append(f"image {megabytes(base + sum(others))}, of which base {megabytes(base)}")


def _look_at(table: Table, builder: Builder, root: Path) -> None:
    with table.row("the secret `pip.conf`, in all layers of all stages") as seen:
        assert run("grep", "--count", "^RUN --mount=type=secret", HOME / "Dockerfile").strip() == "2"
        text = run(
            "sh", "-c", f"grep --recursive --files-with-matches --fixed-strings {SECRET} '{builder.store}' || true"
        )
        assert not text, f"the secret is in {text}"
        seen.append("not there")
    with table.row("developers' tools") as seen:
        tools = developers_tools(root)
        assert not tools, f"the image has {', '.join(tools)}"
        seen.append("none")


def developers_tools(root: Path) -> list[str]:
    """Packages of the extra `dev`, and programs, that the image holds."""
    setup = configparser.ConfigParser()
    setup.read(HOME / "setup.cfg")
    lines = setup["options.extras_require"]["dev"].split()
    names = [line.partition("==")[0].partition("[")[0].replace("-", "_") for line in lines]
    packages = [name for name in names if list(root.glob(f"opt/adatt/lib/python3*/site-packages/{name}-*.dist-info"))]
    folders = ("opt/adatt/bin", "usr/local/bin", "usr/bin", "usr/sbin")
    return packages + [name for name in NOT_IN_THE_IMAGE if any((root / place / name).exists() for place in folders)]


def _same_program(engine: Engine) -> str:
    """A cache may not keep an older program."""
    packages = engine.root / "opt/adatt/lib/python3.11/site-packages"
    sources = [path for name in PACKAGES for path in (HOME / name).rglob("*.py")]
    differing = [path for path in sources if not _equal(path, packages / path.relative_to(HOME))]
    assert not differing, f"not as in this tree: {differing[:5]}"
    return f"{len(sources)} source files as in this tree"


def _equal(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()


def _default_command(engine: Engine) -> str:
    assert "Usage: adatt" in engine.run()
    return "exit 0, the help"


def _user_and_root(engine: Engine) -> str:
    lines = engine.run(entrypoint=["tini", "--", "sh", "-c", LOOK_AROUND]).split("\n")
    assert lines == ["tini", "10001", "0" * 16, ""], lines
    return "process 1 is tini; user 10001, no capabilities; only `/tmp`, `datasets` and `runs` can be written to"


def _synthesise(engine: Engine) -> str:
    engine.run("synth", "datasets/quickstart", "--samples", "60k", "--test-samples", "5k")
    files = [path for path in (engine.folder / "datasets").rglob("*") if path.is_file()]
    assert files
    assert {file.stat().st_uid for file in files} == {engine.user}
    return f"exit 0; files belong to {engine.user}"


def _train(engine: Engine) -> str:
    output = engine.run("train", CONFIG, *SMALL)
    results = read_records(engine.folder / "runs/quickstart/evaluations.jsonl")
    clicks = [record for record in results if record["task"] == "click"]
    last = f"{clicks[-1]['ne']:.4f}"
    assert last in output, "no table of results"
    assert read_starts(engine.folder / "runs/quickstart/segments.jsonl")[0].world_size == 2
    return f"exit 0, result table: NE of `click` {last} at {clicks[-1]['samples']:,} samples"


def _stop(engine: Engine) -> str:
    run_folder = RunDirectory(engine.folder / "runs/stopped")
    with engine.started("train", CONFIG, *STOPPED) as process:
        wait_until(lambda: process.ended or run_folder.train_log.exists(), "the first record of train.jsonl", 300)
        process.stop()
        assert (code := process.end()) == 75, f"ended with {code}:\n{process.output}"

    start = read_starts(run_folder.segments)[-1]
    assert (start.end, start.world_size) == ("stopped", 2), start
    return f"both ranks saved at {start.reached:,} samples and ended within {process.seconds:.1f} s: exit 75"


def _resume(engine: Engine) -> str:
    output = engine.run("train", CONFIG, *STOPPED)
    first, second = read_starts(engine.folder / "runs/stopped/segments.jsonl")
    assert second.begin == first.reached > 0, output
    return f"resumed at {second.begin:,}, exit 0; {rows_once(engine.folder / 'runs/stopped')}"


def _refuse(engine: Engine) -> str:
    output = engine.run("train", CONFIG, "--set", "train.sample=60k", code=2)
    assert len([line for line in output.splitlines() if line.startswith("error: ")]) == 1, output
    return "exit 2, one `error:` line"


def _stranger(engine: Engine) -> str:
    (engine.folder / "runs").chmod(0o777)
    changes = ["run.dir=runs/stranger", "train.samples=2048", "evaluate.at_samples=[2048]"]
    engine.run("train", CONFIG, *[word for change in changes for word in ("--set", change)], user=STRANGER)
    files = [path for path in (engine.folder / "runs/stranger").rglob("*") if path.is_file()]
    assert {file.stat().st_uid for file in files} == {STRANGER}
    return "`train` of 2,048 samples: exit 0"


CHECKS: dict[str, Callable[[Engine], str]] = {
    "the program": _same_program,
    "no command": _default_command,
    "read-only root, by `runc`": _user_and_root,
    "`synth datasets/quickstart --samples 60k`": _synthesise,
    "`train configs/quickstart.toml`, 60k samples, `PROCESSES=2`": _train,
    "SIGTERM to process 1 (`docker stop`)": _stop,
    "the same command again": _resume,
    "a key that is wrong: `--set train.sample=60k`": _refuse,
    f"a user unknown to the image: `--user {STRANGER}`": _stranger,
}


if __name__ == "__main__":
    sys.exit(main())
