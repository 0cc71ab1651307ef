"""The file of a job, for the scheduler that is asked for."""

from dataclasses import dataclass
from typing import Literal

from trainer.errors import ConfigError
from trainer.launching.compose import compose_file
from trainer.launching.job import Job
from trainer.launching.kubernetes import Claims, Resource, kubernetes_file
from trainer.launching.slurm import slurm_script

Kind = Literal["slurm", "kubernetes", "compose"]


@dataclass(frozen=True)
class Target:
    """Where the job is to run. None: left out."""

    kind: Kind
    path: str | None = None
    """Of the file that is written."""
    image: str | None = None
    resource: Resource | None = None
    time: str | None = None
    datasets: str | None = None
    runs: str | None = None

    @property
    def known_path(self) -> str:
        """Of the file for two nodes that comes with the program, where this one has none."""
        names = {"slurm": "slurm/train.sbatch", "compose": "compose.yaml"}
        return self.path or "launch/" + names.get(self.kind, f"kubernetes/{self.resource or 'job'}.yaml")


def render(job: Job, target: Target) -> str:
    """The text of the file; ConfigError for an option that the scheduler has no use for."""
    _check_options(target)
    image = target.image or ("adatt:cuda" if job.process.gpu else "adatt")

    if target.kind == "slurm":
        return slurm_script(job, target.image, target.time or "24:00:00", target.known_path)
    if target.kind == "compose":
        return compose_file(job, image, target.known_path, target.datasets, target.runs)

    claims = Claims(target.datasets or "datasets", target.runs or "runs")
    return kubernetes_file(job, target.resource or "job", image, target.known_path, claims)


def _check_options(target: Target) -> None:
    others = {
        "--resource": (target.resource, ("kubernetes",)),
        "--time": (target.time, ("slurm",)),
        "--datasets": (target.datasets, ("kubernetes", "compose")),
        "--runs": (target.runs, ("kubernetes", "compose")),
    }
    for option, (value, kinds) in others.items():
        if value is not None and target.kind not in kinds:
            raise ConfigError(f"{option} {value}: not an option of {target.kind} (of {' and '.join(kinds)}); omit it")

    for option, value in (("--image", target.image), ("--time", target.time), ("--out", target.path)):
        if value is not None and not (value.isprintable() and value.strip()):
            raise ConfigError(f"{option} {value!r} is empty or holds a line break, which a job cannot pass on")
