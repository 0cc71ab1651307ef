"""`adatt launch`: a config becomes a job of a scheduler."""

import sys
from typing import Annotated, Literal

import typer

from data.storage.paths import path_of
from trainer.cli.options import ConfigArgument, SetOption

Kind = Annotated[
    Literal["slurm", "kubernetes", "compose"], typer.Argument(metavar="KIND", help="slurm, kubernetes or compose.")
]
NodesOption = Annotated[int, typer.Option(min=1, max=1 << 16, help="Nodes of the job.")]
ProcessesOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=1 << 16,
        help="Processes of each node, with --gpu one for each GPU; nodes x processes divide data.lanes.",
    ),
]
GpuOption = Annotated[
    bool | None,
    typer.Option(
        "--gpu/--no-gpu", help="A GPU for each process; left out: where run.device is cuda.", show_default=False
    ),
]
CpusOption = Annotated[int, typer.Option(min=1, max=4096, help="Cores of each process, and its threads.")]
MemoryOption = Annotated[int, typer.Option(min=1, metavar="GIB", help="Memory of each process, in GiB.")]
SharedOption = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="GIB",
        help="Part of it that may be shared between the processes of a node (/dev/shm), as by NCCL.",
    ),
]
ResourceOption = Annotated[
    Literal["job", "jobset", "trainjob", "pytorchjob"] | None,
    typer.Option(
        metavar="RESOURCE",
        help="Of Kubernetes: job (left out; needs nothing installed), jobset (restarts all nodes together), trainjob "
        "or pytorchjob (Kubeflow Trainer, Kubeflow Training Operator).",
    ),
]
ImageOption = Annotated[
    str | None,
    typer.Option(
        metavar="IMAGE",
        help="Image as the nodes pull it; left out: adatt. Slurm: run in it by Apptainer; left out: in .venv, by `make "
        "setup`.",
    ),
]
NameOption = Annotated[str, typer.Option(metavar="NAME", help="Name of the job; two at a time need two.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port of node 0 at which the nodes meet.")]
TimeOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Slurm's time limit, left out: 24:00:00; a job that reaches it saves and goes on in the queue.",
    ),
]
DatasetsOption = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        help="What holds the data: a persistent volume claim (left out: datasets) or, for compose, a folder (left out: "
        "as in the config). Its root is the first folder of data.train.",
        show_default=False,
    ),
]
RunsOption = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE", help="The same for the first folder of run.dir; all nodes write to it.", show_default=False
    ),
]
OutOption = Annotated[str, typer.Option(metavar="FILE", help="File to write, or to replace; -: standard output.")]


def launch_command(  # noqa: PLR0913 - one parameter for each option
    kind: Kind,
    config: ConfigArgument,
    nodes: NodesOption = 2,
    processes: ProcessesOption = 1,
    gpu: GpuOption = None,
    cpus: CpusOption = 4,
    memory: MemoryOption = 16,
    shared_memory: SharedOption = 1,
    image: ImageOption = None,
    resource: ResourceOption = None,
    name: NameOption = "adatt",
    port: PortOption = 29500,
    time: TimeOption = None,
    datasets: DatasetsOption = None,
    runs: RunsOption = None,
    changes: SetOption = None,
    out: OutOption = "-",
) -> None:
    """Write the file that starts a training on a cluster; nothing is started.

    The config stays the same everywhere, and the time that the scheduler leaves for a save comes from its
    checkpoint.grace_seconds. What each file asks for, and how the job ends: docs/operations.md. Then:

    \b
    slurm       adatt launch slurm my.toml --nodes 16 --processes 8 --gpu --out train.sbatch
                sbatch train.sbatch
    kubernetes  adatt launch kubernetes my.toml --nodes 16 --image HOST/adatt --out job.yaml
                kubectl apply --filename job.yaml
    compose     adatt launch compose my.toml --nodes 2 --out compose.yaml
                docker compose --file compose.yaml --project-directory . up
    """
    from data.storage.files import replace_text
    from trainer.config.load import load_config
    from trainer.launching.job import Job, Process, check_job
    from trainer.launching.render import Target, render

    loaded = load_config(config, changes)
    has_gpu = loaded.run.device == "cuda" if gpu is None else gpu
    process = Process(cpus, has_gpu, memory, shared_memory)
    job = Job(loaded, config, tuple(changes or ()), name, nodes, processes, process, port)
    check_job(job)

    path = None if out == "-" else out
    text = render(job, Target(kind, path, image, resource, time, datasets, runs))
    if path is None:
        sys.stdout.write(text)
    else:
        replace_text(path_of("--out", path), text)
        sys.stdout.write(f"written: {path}\n")
