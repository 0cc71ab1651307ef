"""Hosts made of network namespaces on one machine: addresses and host names of their own, joined by a switch.

    adatt-CASE-a    10.77.0.1  node-a  ─┐
    adatt-CASE-b    10.77.0.2  node-b  ─┼─ a bridge in adatt-CASE-switch, or `tests.cluster.switch`
    adatt-CASE-c    10.77.0.3  node-c  ─┘

All devices lie in namespaces, so that with these everything is gone. A link is cut at the bridge: frames are lost
without a word to either side, as when a cable is pulled from a switch that is between two others.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "adatt-"
"""How the names of all namespaces begin."""
LETTERS = "abcdefgh"
FILES = Path("/etc/netns")
"""`ip netns exec` puts the files of a folder here in the place of those in /etc."""
LOCK = Path("/run/adatt-cluster-check.lock")
NAME_THE_HOST = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'
GONE_SECONDS = 10.0


def reason_against() -> str | None:
    """Why this machine cannot make hosts, in words; None: it can."""
    missing = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found (Debian: iproute2, util-linux)"

    probe = f"{PREFIX}probe"
    for command in (["ip", "netns", "add", probe], ["ip", "-n", probe, "link", "add", "b0", "type", "bridge"]):
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode:
            remove([probe])
            return f"no network namespaces here, which need root ({' '.join(command)}: {tried.stderr.strip()})"

    remove([probe])
    return None


def reason_against_switch() -> str | None:
    """Why this machine cannot make TAP devices, in words; None: it can."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"no TAP devices here (/dev/net/tun: {error.strerror})"
    return None


@contextmanager
def alone() -> Iterator[None]:
    """Context in which no other check makes hosts on this machine; removes what a check has left that was killed."""
    with LOCK.open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("error: another cluster check runs on this machine; wait for it")

        remove(left_over())
        try:
            yield
        finally:
            remove(left_over())


def left_over() -> list[str]:
    """Namespaces of ours that are there."""
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in found.splitlines() if line]
    return [name for name in names if name.startswith(PREFIX)]


def remove(names: list[str]) -> None:
    """Ends the processes in these namespaces, and removes them."""
    for name in names:
        kill_all_in(name)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        shutil.rmtree(FILES / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        FILES.rmdir()


def pids_in(name: str) -> list[int]:
    """Processes in a namespace."""
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def kill_all_in(name: str) -> None:
    """Ends all processes in a namespace, at once."""
    end = time.monotonic() + GONE_SECONDS
    while pids := pids_in(name):
        signal_all(pids, signal.SIGKILL)
        assert time.monotonic() < end, f"processes {pids} in {name} cannot be killed"
        time.sleep(0.05)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Sends a signal to those that are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def ip(*words: str) -> None:
    """Runs `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """Hosts a, b, c, …, as long as the context is open."""

    def __init__(self, label: str, number: int, *, bridged: bool = True) -> None:
        self.names = [f"{PREFIX}{label}-{letter}" for letter in LETTERS[:number]]
        self._switch = f"{PREFIX}{label}-switch"
        self._bridged = bridged

    def __enter__(self) -> "Hosts":
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._remove()

    def _remove(self) -> None:
        remove([*self.names, self._switch])

    def _make(self) -> None:
        ip("netns", "add", self._switch)
        if self._bridged:
            ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", self._switch, "link", "set", "bridge", "up")

        lines = [f"{address(host)} {node_name(host)}\n" for host in range(len(self.names))]
        for host, name in enumerate(self.names):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            (FILES / name).mkdir(parents=True)
            (FILES / name / "hosts").write_text("".join(["127.0.0.1 localhost\n", *lines]))
            if self._bridged:
                self._plug_in(host)

    def _plug_in(self, host: int) -> None:
        port = f"port-{LETTERS[host]}"
        ip("link", "add", "eth0", "netns", self.names[host], "type", "veth", "peer", port, "netns", self._switch)
        self.mend(host)
        ip("-n", self._switch, "link", "set", port, "up")
        self.set_address(host)

    def set_address(self, host: int) -> None:
        """Gives the host its address."""
        ip("-n", self.names[host], "address", "add", f"{address(host)}/24", "dev", "eth0")
        ip("-n", self.names[host], "link", "set", "eth0", "up")

    def add_private(self, host: int, private_address: str) -> None:
        """Gives the host one more interface, eth1, on a network that no other host is on."""
        ip("-n", self.names[host], "link", "add", "eth1", "type", "bridge")
        ip("-n", self.names[host], "address", "add", f"{private_address}/24", "dev", "eth1")
        ip("-n", self.names[host], "link", "set", "eth1", "up")

    def cut(self, host: int) -> None:
        """Cuts the host's link."""
        ip("-n", self._switch, "link", "set", f"port-{LETTERS[host]}", "nomaster")

    def mend(self, host: int) -> None:
        """Plugs the host's link in."""
        ip("-n", self._switch, "link", "set", f"port-{LETTERS[host]}", "master", "bridge")

    def command(self, host: int, call: list[str]) -> list[str]:
        """A call as it is run on the host; the process of that call takes the place of the others."""
        where = ["ip", "netns", "exec", self.names[host], "unshare", "--uts"]
        return [*where, "sh", "-c", NAME_THE_HOST, node_name(host), *call]


def address(host: int) -> str:
    """Of a host, on the network of its case."""
    return f"10.77.0.{host + 1}"


def node_name(host: int) -> str:
    """What a host calls itself."""
    return f"node-{LETTERS[host]}"
