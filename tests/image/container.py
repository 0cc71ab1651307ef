"""Runs the image as Docker does, by the runtime that Docker uses itself (runc), which needs no daemon.

The root file system is read-only; /tmp is a tmpfs; `datasets` and `runs` are folders of this machine. Processes have
the image's user, no capabilities, namespaces of their own, and a network of which only the loopback is there.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.checks import run

TIME_LIMIT_SECONDS = 480
WRITABLE = ("datasets", "runs")
TMPFS = {
    "/tmp": ["nosuid", "nodev", "mode=1777"],
    "/dev": ["nosuid", "mode=755", "size=64k"],
    "/dev/shm": ["nosuid", "nodev", "mode=1777", "size=64m"],
}
NAMESPACES = ("pid", "network", "ipc", "uts", "mount")


@dataclass
class Process:
    """The command of a container."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    runtime: list[str]
    seconds: float = 0.0

    def stop(self) -> None:
        """What `docker stop` does first: SIGTERM to process 1."""
        run(*self.runtime, "kill", self.name, "TERM")

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.process.poll() is not None

    def end(self) -> int:
        """Its exit code."""
        begin = time.monotonic()
        code = self.process.wait(TIME_LIMIT_SECONDS)
        self.seconds = time.monotonic() - begin
        return code

    @property
    def output(self) -> str:
        """Standard output and standard error."""
        return self.log.read_text(errors="replace")


@dataclass
class Engine:
    """Starts containers of one image."""

    root: Path
    config: Mapping[str, object]
    """The image's."""
    folder: Path
    """Of this machine: holds `datasets`, `runs`, and what the runtime needs."""
    count: int = field(default=0, init=False)

    @property
    def user(self) -> int:
        """Of the image, a number."""
        return int(str(self.config["User"]))

    def prepare(self) -> None:
        """The folders that a container may write to, which belong to its user."""
        for name in WRITABLE:
            folder = self.folder / name
            folder.mkdir()
            folder.chmod(0o755)
            run("chown", f"{self.user}:{self.user}", folder)

    @contextmanager
    def started(
        self, *arguments: str, entrypoint: Sequence[str] | None = None, user: int | None = None
    ) -> Iterator[Process]:
        """`docker run --rm --read-only adatt arguments`; killed at the end."""
        self.count += 1
        bundle = self.folder / f"bundle-{self.count}"
        bundle.mkdir()
        words = [*(entrypoint or self._words("Entrypoint")), *(arguments or self._words("Cmd"))]
        specification = self._specification(words, self.user if user is None else user)
        (bundle / "config.json").write_text(json.dumps(specification))

        name, log = f"adatt-check-{self.folder.name}-{self.count}", bundle / "output"
        runtime = ["runc", "--root", str(self.folder / "runtime")]
        with log.open("w") as output:
            command = [*runtime, "run", "--bundle", str(bundle), name]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True)
        try:
            yield Process(name, process, log, runtime)
        finally:
            if process.poll() is None:
                run(*runtime, "delete", "--force", name)
                process.wait(TIME_LIMIT_SECONDS)

    def run(
        self, *arguments: str, code: int = 0, entrypoint: Sequence[str] | None = None, user: int | None = None
    ) -> str:
        """Output of a command that ends with `code`; AssertionError where it ends with another."""
        with self.started(*arguments, entrypoint=entrypoint, user=user) as process:
            ended = process.end()
            assert ended == code, f"{' '.join(arguments)} ended with {ended}, not {code}:\n{process.output[-4000:]}"
            return process.output

    def _words(self, key: str) -> list[str]:
        value = self.config.get(key) or []
        assert isinstance(value, list)
        return value

    def _specification(self, words: list[str], user: int) -> dict[str, object]:
        """Of the Open Container Initiative's runtimes."""
        directory = str(self.config["WorkingDir"])
        mounts: list[dict[str, object]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
        for place, options in TMPFS.items():
            mounts.append({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
        for name in WRITABLE:
            source, options = str(self.folder / name), ["bind", "rw", "nosuid", "nodev"]
            mounts.append({"destination": f"{directory}/{name}", "type": "bind", "source": source, "options": options})

        return {
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": user, "gid": user},
                "args": words,
                "env": [*self._words("Env"), "PROCESSES=2"],
                "cwd": directory,
                "capabilities": {},
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.root), "readonly": True},
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": name} for name in NAMESPACES],
                "maskedPaths": ["/proc/kcore", "/proc/keys"],
                "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
            },
        }
