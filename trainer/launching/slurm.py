"""A batch script for Slurm."""

import shlex

from trainer.launching.job import Job
from trainer.launching.templates import fill

PYTHON = ".venv/bin/python"
"""Where `make setup` puts it, in a folder that all nodes see."""


def slurm_script(job: Job, image: str | None, time: str, path: str) -> str:
    """The script; `time`: Slurm's limit, such as 24:00:00; `image`: None for the environment of `make setup`."""
    gpus = job.processes if job.process.gpu else 0
    python = [PYTHON]
    if image is not None:
        python = ["apptainer", "exec", *(["--nv"] if gpus else []), f"docker://{image}", "python"]

    values = {
        "how": f"sbatch {shlex.quote(path)}",
        "time": time,
        "gpu_line": f"#SBATCH --gpus-per-node={gpus}" if gpus else "",
        "launcher": shlex.join([*python, "-m", "launch.entrypoint"]),
        "command": shlex.join(["train", job.config_path, *job.arguments]),
    }
    return fill("train.sbatch", job.values | values)
