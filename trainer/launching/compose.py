"""A file for Docker Compose: the nodes of a job as containers of one machine."""

import json
import shlex

from trainer.launching.job import Job
from trainer.launching.templates import fill
from trainer.launching.volumes import CONFIG_FILE, folder_inside, volumes_of


def compose_file(job: Job, image: str, path: str, datasets: str | None, runs: str | None) -> str:
    """The file; `datasets`, `runs`: folders of this machine, None for those that the config names."""
    volumes = volumes_of(job.config)
    mounts = [_bind(job.config_path, CONFIG_FILE, read_only=True)]
    if volumes.datasets is not None:
        mounts.append(_bind(datasets or volumes.datasets, folder_inside(volumes.datasets), read_only=True))
    mounts.append(_bind(runs or volumes.runs, folder_inside(volumes.runs), read_only=False))

    values = {
        "how": f"docker compose --file {shlex.quote(path)} --project-directory . up",
        "image": _text(image),
        "command": f"[{', '.join(_text(part) for part in ['train', CONFIG_FILE, *job.arguments])}]",
        "gpu_devices": _GPUS if job.process.gpu else "",
        "volumes": "\n".join(mounts),
        "services": "\n\n".join(_service(job, node) for node in range(job.nodes)),
    }
    return fill("compose.yaml", job.values | values)


_GPUS = """\
reservations:
  devices:
    - driver: nvidia
      count: all
      capabilities: [gpu]"""


def _service(job: Job, node: int) -> str:
    lines = [
        f"node-{node}:",
        "  <<: *node",
        "  environment:",
        "    <<: *environment",
        f'    NODE_RANK: "{node}"',
    ]
    if job.process.gpu:  # every container sees all of the machine's GPUs, and takes its own
        first = node * job.processes
        devices = ",".join(str(first + number) for number in range(job.processes))
        lines.append(f'    CUDA_VISIBLE_DEVICES: "{devices}"')
    return "\n".join(lines)


def _bind(source: str, target: str, *, read_only: bool) -> str:
    """A folder of this machine; Compose would create a missing one, as root."""
    written = source if source.startswith(("/", "~")) else f"./{source.removeprefix('./')}"
    lines = ["- type: bind", f"  source: {_text(written)}", f"  target: {_text(target)}"]
    if read_only:
        lines.append("  read_only: true")
    return "\n".join([*lines, "  bind:", "    create_host_path: false"])


def _text(value: str) -> str:
    """A YAML string; Compose takes a single dollar as the start of a variable."""
    return json.dumps(value.replace("$", "$$"), ensure_ascii=False)
