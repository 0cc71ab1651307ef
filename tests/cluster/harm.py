"""Cases with harm: nodes that are lost, cut off, frozen, slow or late, and what becomes of the others and of them."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.alike import expect_same_losses
from tests.cluster.hosts import signal_all
from tests.cluster.jobs import (
    BATCH,
    HOME,
    START_SECONDS,
    Node,
    Training,
    expect,
    meeting,
    wait_for,
    with_master,
)
from tests.cluster.site import Site

HARMED_AT = 20 * BATCH
"""Samples: two checkpoints are there."""
LONG = {"train": {"samples": 1000 * BATCH}, "data": {"repeat": True}, "checkpoint": {"every_samples": 50 * BATCH}}
"""More than is trained before all has been seen; such a run is stopped at the end."""


def lost(site: Site, host: int, store: int, cut_only: bool, bound: int) -> str:
    """One of three nodes is lost, without a word; the others report it, and go on without it."""
    with site.training(3, **LONG) as training:
        nodes = [training.start(each, **meeting(store, "2:3")) for each in range(3)]
        training.wait_for_samples(HARMED_AT)
        rest = [node for node in nodes if node is not nodes[host]]

        begin = time.monotonic()
        training.hosts.cut(host)
        if not cut_only:
            nodes[host].kill()

        told = wait_for(lambda: all(node.errors for node in rest), bound, "the others do not tell of it")
        resumed = starts_on(training, 2, begin, bound)
        own_end = ""
        if cut_only:
            expect(nodes[host].end(bound), "the node that was cut off ended with 0")
            own_end = f"; the node that was cut off ended with 1 after {time.monotonic() - begin:.0f} s"

        stop(training, rest)
        return (
            f"told after {told:.0f} s: {rest[0].first_error}; went on after {resumed:.0f} s on 2{own_end}; audit kept"
        )


def stop(training: Training, nodes: list[Node]) -> None:
    """Asks launchers to stop; the run has every row once."""
    for node in nodes:
        node.process.send_signal(signal.SIGTERM)
    codes = [node.end(60) for node in nodes]
    expect(codes == [75] * len(nodes), f"asked to stop they ended with {codes}{training.told()}")
    training.check_rows()


def all_end(training: Training, begin: float, bound: int, codes: set[int]) -> str:
    """All launchers end within the bound, counted from `begin`, with one of the codes and a line each."""
    ends = []
    for node in training.nodes:
        code = node.end(max(bound - (time.monotonic() - begin), 0.1))
        expect(code in codes, f"{node.name} ended with {code}: {node.text[-1500:]}")
        expect(node.errors, f"{node.name} ended with {code} without an error line: {node.text[-1500:]}")
        ends.append(f"{node.name.rpartition('-')[2]} {code}, {node.first_error}")
    return f"all ended within {time.monotonic() - begin:.0f} s: {'; '.join(ends)}"


def store_lost(site: Site, bound: int) -> str:
    """The host of the place where nodes meet is cut off: the job ends, on all of them."""
    with site.training(3) as training:
        for host in range(3):
            variables = meeting(1, "2:3")
            training.start(host, **variables | {"RDZV_CONF": f"{variables['RDZV_CONF']},join_timeout=30"})
        training.wait_for_samples(HARMED_AT)
        begin = time.monotonic()
        training.hosts.cut(1)
        return all_end(training, begin, bound, {1})


def cut_with_master(site: Site, bound: int) -> str:
    """A link is cut between nodes that have met at MASTER_ADDR."""
    with master_training(site) as (training, _):
        begin = time.monotonic()
        training.hosts.cut(1)
        return all_end(training, begin, bound, {1})


@contextmanager
def master_training(site: Site) -> Iterator[tuple[Training, list[Node]]]:
    """Two nodes that have met at MASTER_ADDR, and train."""
    with site.training(2, **LONG) as training:
        nodes = [training.start(rank, **with_master(rank)) for rank in range(2)]
        training.wait_for_samples(HARMED_AT)
        yield training, nodes


def frozen(site: Site, bound: int) -> str:
    """The only rank of a node is frozen, for ever."""
    with master_training(site) as (training, nodes):
        begin = time.monotonic()
        signal_all(nodes[1].ranks, signal.SIGSTOP)
        return all_end(training, begin, bound, {1})


def asked_to_stop(site: Site, bound: int) -> str:
    """The launchers are asked to stop while a link is cut, long before anyone gives up."""
    patient = {"run": {"collective_seconds": 300}}
    with site.training(2, **LONG | patient) as training:
        for host in range(2):
            training.start(host, **meeting(0, "1:2"), COLLECTIVE_SECONDS="300")
        training.wait_for_samples(HARMED_AT)
        training.hosts.cut(1)
        time.sleep(3)
        begin = time.monotonic()
        for node in training.nodes:
            node.process.send_signal(signal.SIGTERM)
        return all_end(training, begin, bound, {1, 137, 143})


def wrong_interface(site: Site, interface: str, bound: int) -> str:
    """gloo is told another interface on one node: one that is not there, or one that the others cannot reach."""
    with site.training(2) as training:
        training.hosts.add_private(0, "10.0.0.1")  # below the others': gloo connects to the lower address
        training.start(0, **with_master(0, GLOO_SOCKET_IFNAME=interface))
        training.start(1, **with_master(1))
        wait_for(lambda: all(node.ranks for node in training.nodes), START_SECONDS, "no rank starts", training)
        begin = time.monotonic()
        return all_end(training, begin, bound, {1})


def killed_at_once(site: Site, bound: int) -> str:
    """The rank of a node is killed in its first second, before it has met the others."""
    with site.training(2) as training:
        nodes = [training.start(rank, **with_master(rank)) for rank in range(2)]
        wait_for(lambda: bool(nodes[1].ranks), START_SECONDS, "no rank starts", training)
        time.sleep(0.3)
        begin = time.monotonic()
        signal_all(nodes[1].ranks, signal.SIGKILL)
        code = nodes[1].end(bound)
        expect(code == 137, f"the node of the killed rank ended with {code}")
        code = nodes[0].end(bound)
        passed = time.monotonic() - begin
        expect(code == 1 and nodes[0].errors, f"the other node ended with {code}: {nodes[0].text[-1500:]}")
        expect(passed < bound, f"it took {passed:.0f} s")
        return f"137 and 1 within {passed:.0f} s: {nodes[0].first_error}"


def late(site: Site, bound: int) -> str:
    """A node joins a training that goes on, is lost, and another one comes in its place."""
    with site.training(2, **LONG) as training:
        first = training.start(0, **meeting(0, "1:2"))
        training.wait_for_samples(HARMED_AT)
        begin = time.monotonic()
        second = training.start(1, **meeting(0, "1:2"))
        joined = starts_on(training, 2, begin, bound)

        training.hosts.cut(1)
        second.kill()
        begin = time.monotonic()
        alone = starts_on(training, 1, begin, bound)

        training.hosts.mend(1)
        begin = time.monotonic()
        third = training.start(1, **meeting(0, "1:2"))
        again = starts_on(training, 2, begin, bound)

        stop(training, [first, third])
        times = f"joined after {joined:.0f} s; lost: on one after {alone:.0f} s; another joined after {again:.0f} s"
        return f"{times}; audit kept"


def starts_on(training: Training, ranks: int, begin: float, bound: int) -> float:
    """Seconds since `begin` when a start on so many ranks has trained on."""

    def has_begun() -> bool:
        starts = training.starts()
        return starts[-1]["world_size"] == ranks and training.samples > starts[-1]["from"]

    wait_for(has_begun, bound, f"no start on {ranks} ranks has trained on")
    return time.monotonic() - begin


def paused(site: Site, bound: int) -> str:
    """The host of rank 0 is paused, its lock taken away by the file server; it comes back when others train the run."""
    with site.training(3, **LONG) as training:
        nodes = [training.start(host, **meeting(1, "2:3")) for host in range(3)]
        training.wait_for_samples(HARMED_AT)
        begin = time.monotonic()
        nodes[0].signal(signal.SIGSTOP)
        time.sleep(1)
        (training.run / "lock").rename(training.run.parent / "lock-of-the-paused-host")  # as its lease has run out
        resumed = starts_on(training, 2, begin, bound)

        nodes[0].signal(signal.SIGCONT)
        begin = time.monotonic()
        again = starts_on(training, 3, begin, bound)
        stop(training, nodes)
        times = f"others went on after {resumed:.0f} s; back, it wrote nothing, and took part after {again:.0f} s"
        return f"{times}; audit kept"


def slow(site: Site, delay_seconds: float, loss: float, bound: int) -> str:
    """A node behind a slow network that loses packets: no harm but the time."""
    patient = {"run": {"collective_seconds": 30}, "checkpoint": {"grace_seconds": 100}}
    with site.training(2, bridged=False, **patient) as training, switched(training, delay_seconds, loss):
        begin = time.monotonic()
        times = {"COLLECTIVE_SECONDS": "30", "GRACE_SECONDS": "110"}
        nodes = [training.start(host, **meeting(0, "2", **times)) for host in range(2)]
        training.wait_for_samples(3 * BATCH)  # the test at the end would take hundreds of answers
        for node in nodes:
            node.process.send_signal(signal.SIGTERM)
        for node in nodes:
            code = node.end(max(bound - (time.monotonic() - begin), 0.1))
            expect(code == 75, f"asked to stop, {node.name} ended with {code}{training.told()}")

        passed = time.monotonic() - begin
        steps = expect_same_losses(site, training, 2)
        training.check_rows()
        warnings = [line for line in nodes[1].text.splitlines() if line.startswith("warning: the store")]
        expect(warnings, f"nobody tells that the network is slow{training.told()}")
        seen = f"{steps} steps and their losses as on one host, saved and 75, in {passed:.0f} s"
        return f"{seen}; a warning tells of the network"


@contextmanager
def switched(training: Training, delay_seconds: float, loss: float) -> Iterator[None]:
    """Context in which the hosts are joined by a switch that delays and loses what the second one sends."""
    names = training.hosts.names
    call = [sys.executable, "-m", "tests.cluster.switch", "1", str(delay_seconds), str(loss), *names]
    with subprocess.Popen(call, cwd=HOME, stdout=subprocess.PIPE, text=True) as switch:
        try:
            assert switch.stdout is not None
            expect(switch.stdout.readline() == "ready\n", "the switch does not start")
            for host in range(len(names)):
                training.hosts.set_address(host)
            yield
        finally:
            switch.kill()
