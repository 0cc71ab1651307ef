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

It overrides methods that torch keeps for subclasses (`_monitor_workers` is called every 0.1 s), and clears two private
attributes of the rendezvous; tests/launch/test_agent.py shows when an upgrade of torch changes any of it.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsSpecs, SignalException, SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.elastic.utils.store import barrier
from torch.distributed.run import config_from_args, parse_args

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
WRONG_INPUT, STOPPED, UNREAD = 2, 75, 128 + signal.SIGPIPE
TOLD = (WRONG_INPUT, STOPPED, UNREAD)
"""Ends of a rank that it has explained itself and that another start would not change."""
SETTLE_SECONDS = 10.0
"""How long ranks and other nodes may take to end after the first has ended with a known exit code."""
FINISH_SECONDS = 300.0
"""How long other nodes may take to end after the ranks of this one have finished; torchrun's own value."""
STATE_AGE_SECONDS = 1.5
"""More than the age up to which torch's rendezvous answers from its cache."""


class RankAgent(LocalElasticAgent):
    """The ranks of this node, from the first start to the last end."""

    def __init__(self, spec: WorkerSpec, logs_specs: LogsSpecs, grace_seconds: int) -> None:
        super().__init__(spec, logs_specs)
        self.first_failure = 0
        """How the rank that failed first ended, of the last start: its exit code, or minus a signal; 0: none failed."""
        self._grace_seconds = grace_seconds
        self._signals = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._unsent = 0
        self._stopping = False

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
        super()._rendezvous(worker_group)
        self.first_failure = 0
        self._handle_signals(self._receive)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        running = self._look()
        if running and not self.first_failure and not self._stopping:
            return RunResult(state=WorkerState.HEALTHY)

        if self._stopping:
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
            self._wait_for_nodes(SETTLE_SECONDS) if final else self._tell_of_restart()

        return result

    def _stop_workers(self, worker_group: WorkerGroup) -> None:  # noqa: ARG002
        """Before a restart for new nodes: the ranks save, as after any SIGTERM."""
        self._shutdown(timeout=self._grace_seconds)

    def _exit_barrier(self) -> None:
        """All ranks of this node have finished."""
        self._handle_signals(signal.SIG_DFL)
        self._wait_for_nodes(FINISH_SECONDS)

    def _wait_for_nodes(self, seconds: float) -> None:
        group: Any = self._worker_group  # torch declares its parts as None
        with contextlib.suppress(DistError):
            barrier(group.store, group.group_world_size, "launch/ended", seconds)

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
        if self._pass_signals_until_ended(self._grace_seconds):
            return

        sys.stderr.write(
            f"error: ranks that have not ended GRACE_SECONDS={self._grace_seconds} after the signal: killed\n"
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


def run_ranks(launcher_arguments: list[str], grace_seconds: int) -> int:
    """Runs the ranks of this node, as these arguments of torchrun say; the exit code, or minus a signal."""
    # This logger tells of every rank how it ended; the summary below says it once, where no rank has said why.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        agent = _build_agent(launcher_arguments, grace_seconds)
    except ValueError as error:
        return _tell(f"{error} (RDZV_ENDPOINT, RDZV_BACKEND, RDZV_CONF)", WRONG_INPUT)
    except RendezvousError as error:
        return _tell(_lost_nodes(error), 1)

    rendezvous = agent.get_worker_group().spec.rdzv_handler
    try:
        result = agent.run()
    except SignalException as ended:
        return -ended.sigval
    except (RendezvousError, DistError) as error:
        return _tell(_lost_nodes(error), 1)

    if agent.first_failure in TOLD:  # on all nodes; the one where they met may have left
        return agent.first_failure

    rendezvous.shutdown()
    if agent.first_failure and not agent.ended_as_asked:
        sys.stderr.write(f"{ChildFailedError('training', result.failures)}\n")

    return agent.first_failure


def _build_agent(launcher_arguments: list[str], grace_seconds: int) -> RankAgent:
    options = parse_args(launcher_arguments)
    config, command, arguments = config_from_args(options)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    static = config.rdzv_backend == "static"
    parameters = RendezvousParameters(
        config.rdzv_backend,
        config.rdzv_endpoint,
        config.run_id,
        config.min_nodes,
        config.max_nodes,
        config.local_addr,
        **config.rdzv_configs,
    )
    spec = WorkerSpec(
        role=config.role,
        local_world_size=config.nproc_per_node,
        entrypoint=command,
        args=tuple(arguments),
        rdzv_handler=get_rendezvous_handler(parameters),
        max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval,
        master_addr=options.master_addr if static else None,
        master_port=options.master_port if static else None,
        local_addr=config.local_addr,
        numa_options=config.numa_options,
    )
    assert config.logs_specs is not None

    return RankAgent(spec, config.logs_specs, grace_seconds)


def _lost_nodes(error: Exception) -> str:
    reason = str(error.__cause__ or error) or type(error).__name__
    return f"the nodes have no connection, or lost it ({reason.splitlines()[0]}); start the job again on all of them"


def _tell(message: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return code
