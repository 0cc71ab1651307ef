"""All cases: what is done to a training on several hosts, and within which time it must have come out right."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.cluster.alike import same_losses
from tests.cluster.harm import (
    asked_to_stop,
    cut_with_master,
    frozen,
    killed_at_once,
    late,
    lost,
    paused,
    slow,
    store_lost,
    wrong_interface,
)
from tests.cluster.site import Site


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    harm: str
    run: Callable[[Site], str]
    """What was seen, in words; raises BrokenError."""
    bound: int = 0
    """Seconds from the harm to the end of those that it ends, or to the first step of those that go on."""
    needs_switch: bool = False
    """Whether it needs TAP devices."""


def _alike(nodes: int, processes: int) -> Case:
    run = partial(same_losses, nodes=nodes, processes=processes)
    return Case(f"alike-{nodes}x{processes}", f"none: {nodes} nodes × {processes}", run)


def _harmed(name: str, harm: str, run: Callable[..., str], bound: int, **values: Any) -> Case:
    return Case(name, harm, partial(run, bound=bound, **values), bound, run is slow)


CASES = [
    _harmed("slow", "one of 2 nodes has 200 ms and 20 % loss", slow, 240, delay_seconds=0.2, loss=0.2),
    _harmed("late", "a node comes, is lost, and another one comes", late, 150),
    _harmed("cut", "link of one of 3 nodes cut", lost, 90, host=2, store=0, cut_only=True),
    _harmed(
        "cut-rank-0", "link of rank 0 cut; it still sees the run's folder", lost, 90, host=0, store=1, cut_only=True
    ),
    _harmed("killed", "one of 3 nodes loses its power", lost, 90, host=2, store=0, cut_only=False),
    _harmed("paused", "host of rank 0 paused, its lock lost; comes back later", paused, 120),
    _harmed("cut-store", "link of the node of RDZV_ENDPOINT cut", store_lost, 80),
    _harmed("cut-static", "link cut, nodes met at MASTER_ADDR", cut_with_master, 45),
    _harmed("cut-sigterm", "link cut; 3 s later SIGTERM to all launchers", asked_to_stop, 40),
    _harmed("frozen", "the only rank of a node is frozen", frozen, 50),
    _harmed("interface", "GLOO_SOCKET_IFNAME of no interface on one node", wrong_interface, 60, interface="nope0"),
    _harmed(
        "interface-private", "GLOO_SOCKET_IFNAME of another network on one node", wrong_interface, 80, interface="eth1"
    ),
    _harmed("killed-at-once", "a rank is killed in its first second", killed_at_once, 30),
    *(_alike(nodes, processes) for nodes, processes in ((2, 1), (2, 2), (3, 1), (3, 2))),
]
