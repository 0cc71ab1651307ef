"""Runs the ranks of this node: torchrun's arguments become an agent, and its end an exit code."""

import logging
import os
import sys

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler
from torch.distributed.run import config_from_args, parse_args

from launch.agent import TOLD, WRONG_INPUT, Limits, RankAgent, tell


def run_ranks(launcher_arguments: list[str], grace_seconds: int, collective_seconds: int) -> int:
    """Runs the ranks of this node, as these arguments of torchrun say; the exit code, or minus a signal."""
    # This logger tells of every rank how it ended; the summary below says it once, where no rank has said why.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        agent = _build_agent(launcher_arguments, grace_seconds, collective_seconds)
    except ValueError as error:
        return tell(f"{error} (RDZV_ENDPOINT, RDZV_BACKEND, RDZV_CONF)", WRONG_INPUT)
    except RendezvousError as error:
        return tell(_lost_nodes(error), 1)

    rendezvous = agent.get_worker_group().spec.rdzv_handler
    try:
        result = agent.run()
    except SignalException as ended:
        return -ended.sigval
    except (RendezvousError, DistError) as error:
        return tell(_lost_nodes(error), 1)

    if agent.first_failure in TOLD or agent.lost:  # on all nodes; the one where they met may have left
        return agent.first_failure

    if agent.reaches_others:
        rendezvous.shutdown()
    if agent.first_failure and not agent.ended_as_asked:
        sys.stderr.write(f"{ChildFailedError('training', result.failures)}\n")

    return agent.first_failure


def _build_agent(launcher_arguments: list[str], grace_seconds: int, collective_seconds: int) -> RankAgent:
    options = parse_args(launcher_arguments)
    config, command, arguments = config_from_args(options)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    os.environ["ADATT_ATTEMPT"] = "0"  # a store for each start; the nodes' own counts of restarts may differ
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

    return RankAgent(spec, config.logs_specs, Limits(grace_seconds, config.max_nodes, collective_seconds))


def _lost_nodes(error: Exception) -> str:
    reason = str(error.__cause__ or error) or type(error).__name__
    return f"the nodes have no connection, or lost it ({reason.splitlines()[0]}); start the job again on all of them"
