"""Files for Kubernetes: a Job, a JobSet, or one of Kubeflow's kinds. They share one pod."""

import json
import re
import shlex
from dataclasses import dataclass
from typing import Literal

from data.storage.paths import full_path
from trainer.errors import ConfigError
from trainer.launching.job import RESTARTS, Job
from trainer.launching.templates import fill
from trainer.launching.volumes import CONFIG_FILE, folder_inside, volumes_of

Resource = Literal["job", "jobset", "trainjob", "pytorchjob"]
STOPPED_CODE = 138
"""Exit code in place of 75 for a PyTorchJob, which starts again after 128 and more only: the operator's documentation
leaves 138 (SIGUSR1) to the user."""


@dataclass(frozen=True)
class Claims:
    """Names of the persistent volume claims."""

    datasets: str
    runs: str


def kubernetes_file(job: Job, resource: Resource, image: str, path: str, claims: Claims) -> str:
    """The file; its first document is the config map that holds the config."""
    for option, name in (("--datasets", claims.datasets), ("--runs", claims.runs)):
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
            raise ConfigError(f"{option} {name!r} is no name of a persistent volume claim; give one such as runs")

    values = job.values | _shared(job, image, path, claims)
    if resource == "pytorchjob":
        return _pytorch_job(job, values)

    if resource == "job":
        node_0 = f"{job.name}-0.{job.name}"
        values["pod_fields"] = f"subdomain: {job.name}\nrestartPolicy: Never"
        values["backoff_limit"] = RESTARTS * job.nodes
    else:
        node_0 = f"{job.name}-node-0-0.{job.name}"
        values["pod_fields"] = "restartPolicy: Never"
        values["backoff_limit"] = 0

    values["rendezvous"] = _master(node_0, job.port)
    values["pod"] = fill("pod.yaml", values)
    values["job_spec"] = fill("job_spec.yaml", values)
    values["job_metadata"] = _TRAINER_STEP if resource == "trainjob" else ""
    values["job_set_spec"] = fill("job_set_spec.yaml", values)
    return fill(f"{resource}.yaml", values)


_TRAINER_STEP = """\
metadata:
  labels:
    trainer.kubeflow.org/trainjob-ancestor-step: trainer"""


def _pytorch_job(job: Job, values: dict[str, object]) -> str:
    """The operator does not say in a variable of its own which node a pod is: the nodes find out by themselves."""
    variables = {"RDZV_ENDPOINT": f"{job.name}-master-0:{job.port}", "RDZV_ID": job.name}
    values |= {
        "container": "pytorch",
        "pod_fields": "",
        "backoff_limit": RESTARTS * job.nodes,
        "rendezvous": _variables(variables),
        "more_variables": _variables({"STOPPED_CODE": str(STOPPED_CODE)}),
        "worker_nodes": job.nodes - 1,
    }
    values["pod"] = fill("pod.yaml", values)
    values["workers"] = fill("pytorch_workers.yaml", values) if job.nodes > 1 else ""
    return fill("pytorchjob.yaml", values)


def _shared(job: Job, image: str, path: str, claims: Claims) -> dict[str, object]:
    """Values of all four kinds."""
    volumes = volumes_of(job.config)
    arguments = [argument.replace("$(", "$$(") for argument in job.arguments]  # $(NAME) would be a variable
    values: dict[str, object] = {
        "how": f"kubectl apply --filename {shlex.quote(path)}",
        "container": "node",
        "restarts": RESTARTS,
        "image": json.dumps(image),
        "command": json.dumps(["train", CONFIG_FILE, *arguments], ensure_ascii=False),
        "more_variables": "",
        "gpu_limit": f"nvidia.com/gpu: {job.processes}" if job.process.gpu else "",
        "runs_folder": json.dumps(folder_inside(volumes.runs), ensure_ascii=False),
        "runs_volume": _runs_volume(job, claims.runs),
        "data_mount": _data_mount(volumes.datasets) if volumes.datasets is not None else "",
        "data_volume": _DATA_VOLUME.format(claim=claims.datasets) if volumes.datasets is not None else "",
    }
    text = full_path(job.config_path).read_text(encoding="utf-8-sig")
    values["config_map"] = fill("config_map.yaml", job.values | values | {"config_text": _block(text)})
    return values


_DATA_VOLUME = """\
- name: datasets
  persistentVolumeClaim:
    claimName: {claim}
    readOnly: true"""


def _runs_volume(job: Job, claim: str) -> str:
    """The claim, or a folder of each pod where a store keeps all that the pods have in common."""
    place = job.config.checkpoint.dir
    keeps_all = place is not None and "://" in place and not job.config.run.trace
    return _OWN_VOLUME if keeps_all else _RUNS_VOLUME.format(claim=claim)


_RUNS_VOLUME = """\
- name: runs # all nodes read and write it: ReadWriteMany
  persistentVolumeClaim:
    claimName: {claim}"""

_OWN_VOLUME = """\
- name: runs # each pod's own: what they share is in checkpoint.dir
  emptyDir: {}"""


def _data_mount(folder: str) -> str:
    where = json.dumps(folder_inside(folder), ensure_ascii=False)
    return f"- name: datasets\n  mountPath: {where}\n  readOnly: true"


def _master(node_0: str, port: int) -> str:
    """Variables of nodes that have a number: it is an annotation of their pod."""
    rank = """\
- name: NODE_RANK
  valueFrom:
    fieldRef:
      fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']"""
    return f"{rank}\n{_variables({'MASTER_ADDR': node_0, 'MASTER_PORT': str(port)})}"


def _variables(variables: dict[str, str]) -> str:
    return "\n".join(f'- name: {name}\n  value: "{value}"' for name, value in variables.items())


def _block(text: str) -> str:
    """A text as the value of a key: its lines as they are. ConfigError if it holds a character that YAML does not."""
    if wrong := _NOT_IN_YAML.search(text):
        raise ConfigError(f"CONFIG holds the character U+{ord(wrong[0]):04X}, which a config map cannot; remove it")
    return "\n".join(["|", *(f"    {line}" if line else "" for line in text.strip().split("\n"))])


_NOT_IN_YAML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
