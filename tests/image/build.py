"""Builds the image by buildah, which needs no daemon, on a base made by debootstrap, with wheels that pip has fetched.

What this machine's pip knows (an index, a proxy, a certificate, a folder of wheels) does not enter the build: it
takes all packages from the folder of wheels. Everything is kept in a folder of caches; a second build takes from it
what has not changed.
"""

import configparser
import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError

from tests.checks import run

HOME = Path(__file__).parents[2]
IMAGE, BASE = "localhost/adatt", "docker.io/library/"
SECRET = "2f6c1b0e7d5a4e3f9c88"
"""Stands in the pip.conf that the build is given, and must be found nowhere in what it leaves."""
DEBIAN, PYTHON_PACKAGES = "bookworm", "python3.11-venv,python3-distutils,ca-certificates"
"""debootstrap resolves no virtual packages: python3.11-venv needs python3-distutils under another name."""
FREE_BYTES = {"overlay": 8 << 30, "vfs": 24 << 30}
"""Free space that a first build needs: vfs copies everything for each layer."""


@dataclass(frozen=True)
class Builder:
    """Where images are built and kept."""

    cache: Path
    driver: str
    """buildah's way to store layers: overlay where the kernel can mount one here, else vfs."""

    @property
    def recipe(self) -> Path:
        """The folder of what follows from the files that decide which packages are installed."""
        names = ("Dockerfile", "Makefile", "setup.cfg", "pyproject.toml")
        text = b"".join((HOME / name).read_bytes() for name in names)
        return self.cache / f"{self.driver}-{hashlib.sha256(text).hexdigest()[:12]}"

    @property
    def store(self) -> Path:
        """All layers of all stages."""
        return self.recipe / "store"

    @property
    def state(self) -> Path:
        """What buildah knows of mounts."""
        return self.recipe / "state"

    @property
    def base(self) -> Path:
        """The base's root file system."""
        return self.cache / "base.tar"

    @property
    def wheels(self) -> Path:
        """What pip has fetched."""
        return self.recipe / "wheels"

    def buildah(self, *arguments: str | Path) -> str:
        """Its standard output."""
        where: list[str | Path] = ["--root", self.store, "--runroot", self.state, "--storage-driver", self.driver]
        return run("buildah", *where, *arguments)

    def lacks(self) -> str | None:
        """Why nothing can be built here."""
        free = shutil.disk_usage(self.cache).free
        needed = FREE_BYTES[self.driver]
        if free < needed and not self.store.exists():
            return f"{free >> 30} GiB are free in {self.cache}, {needed >> 30} are needed"
        return None


def open_builder(cache: Path) -> Builder:
    """The folder of caches, without what an older recipe has left there."""
    cache.mkdir(parents=True, exist_ok=True)
    builder = Builder(cache, "overlay" if _can_mount_overlay(cache) else "vfs")
    for old in cache.glob("*-" + "?" * 12):
        if old != builder.recipe:
            shutil.rmtree(old)

    builder.recipe.mkdir(exist_ok=True)
    shutil.rmtree(builder.state, ignore_errors=True)  # it counts mounts that went with the last check
    return builder


def _can_mount_overlay(cache: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        for name in ("lower", "upper", "work", "merged"):
            Path(folder, name).mkdir()
        command = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged && umount merged"
        try:
            run("sh", "-c", f"cd '{folder}' && {command}")
        except SubprocessError:
            return False
    return True


def make_base(builder: Builder) -> str:
    """A Debian with Python 3.11, under the name in the Dockerfile's FROM; what was seen."""
    kept = builder.base.exists()
    if not kept:
        with tempfile.TemporaryDirectory(dir=builder.cache) as folder:
            _bootstrap(Path(folder, "root"))
            archive = Path(folder, "base.tar")
            run("tar", "--directory", Path(folder, "root"), "--create", "--file", archive, ".")
            archive.rename(builder.base)

    name = BASE + re.findall(r"^ARG BASE=(\S+)$", (HOME / "Dockerfile").read_text(), re.MULTILINE)[0]
    if name not in builder.buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        recipe = builder.recipe / "base.Dockerfile"
        recipe.write_text("FROM scratch\nADD base.tar /\n")
        builder.buildah("bud", "--isolation=chroot", "--file", recipe, "--tag", name, builder.cache)

    made = time.strftime("%Y-%m-%d", time.gmtime(builder.base.stat().st_mtime))
    return f"Debian {DEBIAN}, {megabytes(builder.base.stat().st_size)}, {f'kept from {made}' if kept else 'made'}"


def _bootstrap(root: Path) -> None:
    sources = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian")
    mirror = sources.split()[:1]  # this machine's own; none on another system: debootstrap knows one
    run("debootstrap", "--variant=minbase", f"--include={PYTHON_PACKAGES}", DEBIAN, root, *mirror)
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


def fetch_wheels(builder: Builder) -> str:
    """What the Dockerfile installs, by this machine's pip; what was seen."""
    kept = builder.wheels.exists()
    if not kept:
        with tempfile.TemporaryDirectory(dir=builder.recipe) as folder:
            for arguments in pip_downloads():
                run(sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, *arguments)
            shutil.copytree(folder, builder.wheels)

    files = list(builder.wheels.iterdir())
    size = megabytes(sum(file.stat().st_size for file in files))
    return f"{len(files)} wheels, {size}, {'kept' if kept else 'fetched'}"


def pip_downloads() -> list[list[str]]:
    """Arguments of `pip download`: the project's needs on a CPU, and torchrec by itself, as in `make setup`."""
    setup = configparser.ConfigParser()
    setup.read(HOME / "setup.cfg")
    build = tomllib.loads((HOME / "pyproject.toml").read_text())["build-system"]["requires"]
    extras = setup["options.extras_require"]
    needs = [*_requirements(setup["options"]["install_requires"]), *_requirements(extras["cpu"])]
    torchrec = [line for line in _requirements(extras["cuda"]) if line.startswith("torchrec==")]
    return [[*build, *needs], ["--no-deps", *torchrec]]


def _requirements(text: str) -> list[str]:
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def build_image(builder: Builder) -> str:
    """`buildah bud` of the Dockerfile; what was seen."""
    secret = builder.recipe / "pip.conf"
    secret.write_text(f"# {SECRET}\n[global]\nno-index = true\nfind-links = /mnt\n")
    how = ["--isolation=chroot", "--pull=never", "--layers", "--secret", f"id=pip,src={secret}"]
    wheels = ["--volume", f"{builder.wheels}:/mnt:ro"]  # /mnt is there: no folder is left in the image
    output = builder.buildah("bud", *how, *wheels, "--tag", IMAGE, HOME)
    secret.unlink()

    steps = re.findall(r"^\[\d/\d\] STEP (?!1/)", output, re.MULTILINE)
    cached = output.count("Using cache")
    return f"`buildah bud`, {builder.driver}: {len(steps)} steps, {cached} of them kept"


def image_config(builder: Builder) -> Mapping[str, object]:
    """User, Env, Entrypoint, Cmd, WorkingDir."""
    config: dict[str, object] = json.loads(builder.buildah("inspect", "--type=image", IMAGE))["OCIv1"]["config"]
    return config


def layer_bytes(builder: Builder) -> list[int]:
    """Size of each layer of the image, the base's first."""
    inspected = json.loads(builder.buildah("inspect", "--type=image", IMAGE))
    return [layer["size"] for layer in json.loads(inspected["Manifest"])["layers"]]


@contextmanager
def mounted_image(builder: Builder) -> Iterator[Path]:
    """The image's root file system."""
    builder.buildah("rm", "--all")  # of a check that was killed
    container = builder.buildah("from", "--pull-never", IMAGE).strip()
    try:
        yield Path(builder.buildah("mount", container).strip())
    finally:
        builder.buildah("rm", container)


def megabytes(size: int) -> str:
    """In MB of 1,000,000 bytes."""
    return f"{size / 1e6:,.0f} MB"
