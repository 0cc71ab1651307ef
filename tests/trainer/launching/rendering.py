"""Files of jobs for the config of the quickstart, and the parts of those for Kubernetes."""

import contextlib
from pathlib import Path
from typing import Any

from trainer.config.load import load_config
from trainer.launching.job import Job, Process, check_job
from trainer.launching.render import Target, render

ROOT = Path(__file__).parents[3]
CONFIG = "configs/quickstart.toml"
RESOURCES = ("job", "jobset", "trainjob", "pytorchjob")


def launched(
    *,
    nodes: int = 2,
    processes: int = 1,
    gpu: bool = False,
    cpus: int = 4,
    memory: int = 16,
    shared_memory: int = 1,
    name: str = "adatt",
    port: int = 29500,
    changes: list[str] | None = None,
    **target: Any,
) -> str:
    """What `adatt launch` prints, in the folder of the project."""
    with contextlib.chdir(ROOT):
        process = Process(cpus, gpu, memory, shared_memory)
        job = Job(load_config(CONFIG, changes), CONFIG, tuple(changes or ()), name, nodes, processes, process, port)
        check_job(job)
        return render(job, Target(**target))


def job_specs(text: str) -> list[dict[str, Any]]:
    """The specs of Jobs in a file, wherever they are."""
    return [found for found in _dictionaries(text) if "completionMode" in found]


def pod_templates(text: str) -> list[dict[str, Any]]:
    """The templates of pods in a file, wherever they are."""
    return [found for found in _dictionaries(text) if "containers" in found.get("spec", {})]


def _dictionaries(text: str) -> list[dict[str, Any]]:
    import yaml

    found: list[dict[str, Any]] = []
    waiting = list(yaml.safe_load_all(text))
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found.append(value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value

    return [value for value in found if isinstance(value.get("spec", {}), dict)]
