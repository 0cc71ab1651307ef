"""torchrun's agent, which starts the ranks of this node and watches them, taught how a rank of the trainer ends.

What differs from `torchrun`, and why:

- SIGTERM, SIGUSR1, SIGINT and SIGHUP are requests to stop: the ranks get SIGTERM, each time, and have their grace to
  save and end. torchrun does not know SIGUSR1 (it dies of it and leaves its ranks behind), kills the ranks after 30 s,
  and loses their exit codes. A signal that is ignored (nohup) stays ignored; SIGQUIT is left to torchrun.
- Ranks that end with 75 (stopped after saving), 2 (wrong input) or 141 (nobody reads their output) are not started
  again, nor is any after a signal.
- The exit code is that of the first failure. The ranks do not end in the same instant: when one has ended with 75 the
  others get a moment, where torchrun would send them a signal at once.
- Every start of the ranks has a store of its own. The rendezvous of torch 2.13 keeps that of the first start: with the
  addresses of ranks that are gone, to which the new ones try to connect, and unknown to nodes that come later.
- A launcher stays until the other nodes' ranks have ended too: the nodes' store lives in one of the launchers.
- The launchers watch each other (`launch.contact`): one that is cut off ends its ranks and itself, and where a node is
  lost or has failed for good the others end their ranks, too, that would wait for those of that node.

It overrides methods that torch keeps for subclasses (`_monitor_workers` is called every 0.1 s), and clears two private
attributes of the rendezvous; tests/launch/test_agent.py shows when an upgrade of torch changes any of it.
"""

import contextlib
import signal
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsSpecs, SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.elastic.utils.store import barrier

from launch.contact import Contact
from trainer.process.ending import leave

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
WRONG_INPUT, STOPPED, UNREAD = 2, 75, 128 + signal.SIGPIPE
TOLD = (WRONG_INPUT, STOPPED, UNREAD)
"""Ends of a rank that it has explained itself and that another start would not change."""
SETTLE_SECONDS = 10.0
"""How long ranks and other nodes may take to end after the first has ended with a known exit code."""
FINISH_SECONDS = 300.0
"""How long other nodes may take to end after the ranks of this one have finished; torchrun's own value."""
STATE_AGE_SECONDS = 2.5
"""More than the age of what is known of waiting nodes: a second in torch's cache, and an interval of the contact."""


@dataclass(frozen=True)
class Limits:
    """Times of a launcher."""

    grace_seconds: int
    """How long ranks have to end after a signal."""
    most_nodes: int
    collective_seconds: int
    """How long another node, or the store where the nodes meet, may be silent."""


class RankAgent(LocalElasticAgent):
    """The ranks of this node, from the first start to the last end."""

    def __init__(self, spec: WorkerSpec, logs_specs: LogsSpecs, limits: Limits) -> None:
        super().__init__(spec, logs_specs)
        self.first_failure = 0
        """How the rank that failed first ended, of the last start: its exit code, or minus a signal; 0: none failed."""
        self.lost = ""
        """What has become of the other nodes, where this launcher ends for it."""
        self._limits = limits
        self._contact: Contact | None = None
        self._signals = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._unsent = 0
        self._stopping = False

    @property
    def reaches_others(self) -> bool:
        """Whether the store where the nodes meet answers."""
        return self._contact is None or not self._contact.is_silent

    @property
    def ended_as_asked(self) -> bool:
        """Whether the ranks ended by the signal that this launcher has passed on; there was nothing to save."""
        code = self.first_failure if self.first_failure < 0 else 128 - self.first_failure
        return self._stopping and -code in STOP_SIGNALS

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        """Meets the other nodes. Meanwhile no rank runs, and a signal ends this process as it ends any other."""
        self._handle_signals(signal.SIG_DFL)
        if self._stopping:
            signal.raise_signal(signal.SIGTERM)

        rendezvous: Any = self._rdzv_handler
        rendezvous._bootstrap_store_info = rendezvous._shared_tcp_store_server = None  # made anew where unknown
        if self._contact is not None:
            self._contact.leave()
        elif getattr(rendezvous, "_store", None) is not None:  # a static one connects only now
            self._start_contact()

        super()._rendezvous(worker_group)
        self._start_contact()
        if self._contact is not None:
            group: Any = worker_group
            self._contact.meet(group.store, group.group_rank, group.group_world_size)
        self.first_failure = 0
        self._handle_signals(self._receive)

    def _start_contact(self) -> None:
        """Where there are other nodes, which the main thread waits for."""
        if self._contact is None and self._limits.most_nodes > 1:
            self._contact = Contact(self._rdzv_handler, self._limits.collective_seconds, _end_without_others)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        running = self._look()
        problem = self._contact.problem if self._contact is not None else ""
        if running and not self.first_failure and not self._stopping and not problem:
            return RunResult(state=WorkerState.HEALTHY)

        if problem and not self._stopping:
            self._end_after(problem)
        elif self._stopping:
            self._end_within_grace()
        elif self.first_failure == STOPPED:
            self._pass_signals_until_ended(SETTLE_SECONDS)
            if self._stopped_for_new_nodes():
                return RunResult(state=WorkerState.HEALTHY)  # the agent goes on to find the new nodes

        final = self._stopping or self.first_failure in TOLD
        if final:
            self._remaining_restarts = 0

        result = super()._monitor_workers(worker_group)
        if result.is_failed():
            if self._remaining_restarts and not self.lost:
                self._tell_of_restart()
            else:
                self._part(told=final)

        return result

    def _part(self, *, told: bool) -> None:
        """Before this launcher leaves; `told`: the ranks of all nodes end alike, and say why."""
        if self._contact is not None and not told and not self._contact.problem:
            self._contact.tell_failure(
                f"a rank has failed or was lost ({self.first_failure}), and does not start again"
            )
        self._wait_for_nodes(SETTLE_SECONDS)

    def _end_after(self, problem: str) -> None:
        """Others are lost, or have failed: the ranks of this node, which wait for theirs, end by themselves, or not."""
        assert self._contact is not None
        ended = self._pass_signals_until_ended(SETTLE_SECONDS) and not self._look()
        code = self.first_failure
        if not ended:
            self._processes().close(signal.SIGKILL)
        self._look()
        if code not in TOLD and (not ended or self._contact.cut_off):
            self.first_failure = 1
            what = "its ranks are ended" if ended else "the ranks of this node, which did not end, are killed"
            tell(f"{problem}; {what}", 1)
        if self._contact.cut_off:
            self._remaining_restarts = 0
        if not self._remaining_restarts and self.first_failure == 1:
            self.lost = problem

    def _stop_workers(self, worker_group: WorkerGroup) -> None:  # noqa: ARG002
        """Before a restart: for new nodes the ranks save, as after any SIGTERM; after a failure they cannot."""
        self._shutdown(timeout=int(SETTLE_SECONDS) if self.first_failure else self._limits.grace_seconds)

    def _exit_barrier(self) -> None:
        """All ranks of this node have finished."""
        self._handle_signals(signal.SIG_DFL)
        self._wait_for_nodes(FINISH_SECONDS)

    def _wait_for_nodes(self, seconds: float) -> None:
        """In a thread, by a connection of its own: the store may not answer, whatever time one gives it."""
        group: Any = self._worker_group  # torch declares its parts as None

        def wait() -> None:
            with contextlib.suppress(DistError):
                barrier(group.store.clone(), group.group_world_size, "launch/ended", seconds)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        end = time.monotonic() + seconds
        while waiting.is_alive() and self.reaches_others and time.monotonic() < end:
            waiting.join(group.spec.monitor_interval)

    def _handle_signals(self, handler: signal.Handlers | object) -> None:
        for number in self._signals:
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._stopping = True
        self._unsent += 1

    def _look(self) -> bool:
        """Whether ranks are running. Remembers the first failure; among those seen at once, one that is not a stop."""
        codes = [handler.proc.poll() for handler in self._processes().subprocess_handlers.values()]
        failures = [code for code in codes if code]
        if failures and not self.first_failure:
            self.first_failure = next((code for code in failures if code != STOPPED), STOPPED)
        return None in codes

    def _pass_signals_until_ended(self, seconds: float) -> bool:
        """Passes signals on until all ranks have ended or one has failed otherwise; False when the time is up."""
        end = time.monotonic() + seconds
        while self._look() and self.first_failure in (0, STOPPED):
            if time.monotonic() > end:
                return False
            while self._unsent:
                self._unsent -= 1
                for handler in self._processes().subprocess_handlers.values():
                    handler.proc.send_signal(signal.SIGTERM)

            time.sleep(self._worker_group.spec.monitor_interval)

        return True

    def _end_within_grace(self) -> None:
        if self._pass_signals_until_ended(self._limits.grace_seconds):
            return

        sys.stderr.write(
            f"error: ranks that have not ended GRACE_SECONDS={self._limits.grace_seconds} after the signal: killed\n"
        )
        self._processes().close(signal.SIGKILL)
        self._look()

    def _stopped_for_new_nodes(self) -> bool:
        """Whether another node's agent has stopped all ranks to let new nodes in, before this one has seen them."""
        if self._stopping or self._worker_group.group_world_size == 1:
            return False

        time.sleep(STATE_AGE_SECONDS)
        try:
            return self._rdzv_handler.num_nodes_waiting() > 0
        except RendezvousError:
            return False

    def _tell_of_restart(self) -> None:
        most = self._worker_group.spec.max_restarts
        if self._remaining_restarts:
            number = most - self._remaining_restarts + 1
            sys.stderr.write(f"a rank failed or was lost ({self.first_failure}): all start again, {number} of {most}\n")

    def _processes(self) -> SubprocessContext:
        assert isinstance(self._pcontext, SubprocessContext)
        return self._pcontext


def _end_without_others(problem: str) -> None:
    """Called by another thread: the main thread waits for nodes that cannot be reached, and no rank runs."""
    leave(tell(f"{problem}; start the job again", 1))


def tell(message: str, code: int) -> int:
    """Writes an `error:` line; the exit code."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code
