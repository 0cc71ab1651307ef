"""Files of jobs: what they ask of a scheduler, and that those in the folder launch are what the command prints."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import run_command
from tests.trainer.launching.rendering import CONFIG, RESOURCES, ROOT, job_specs, launched, pod_templates
from trainer.errors import ConfigError
from trainer.launching.job import lanes_for

FILES: dict[str, dict[str, str]] = {
    "launch/slurm/train.sbatch": {"kind": "slurm"},
    "launch/compose.yaml": {"kind": "compose"},
    **{f"launch/kubernetes/{name}.yaml": {"kind": "kubernetes", "resource": name} for name in RESOURCES},
}


@pytest.mark.parametrize("path", FILES)
def test_file_that_comes_with_the_program_is_what_the_command_prints(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == launched(**FILES[path])


@pytest.mark.parametrize("resource", RESOURCES)
def test_pods_have_no_privilege(resource: str) -> None:
    for pod in pod_templates(launched(kind="kubernetes", resource=resource)):
        (container,) = pod["spec"]["containers"]
        inside = container["securityContext"]
        assert inside["readOnlyRootFilesystem"]
        assert not inside["privileged"]
        assert not inside["allowPrivilegeEscalation"]
        assert inside["capabilities"] == {"drop": ["ALL"]}
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["securityContext"]["runAsUser"] == 10001
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["spec"]["automountServiceAccountToken"]


@pytest.mark.parametrize("resource", RESOURCES)
def test_pods_have_what_all_processes_need(resource: str) -> None:
    text = launched(
        kind="kubernetes", resource=resource, nodes=4, processes=2, gpu=True, cpus=3, memory=10, image="r/adatt:1"
    )
    for pod in pod_templates(text):
        (container,) = pod["spec"]["containers"]
        assert container["image"] == "r/adatt:1"
        assert container["args"] == ["train", "/etc/adatt/run.toml"]
        assert container["resources"] == {
            "requests": {"cpu": "6", "memory": "20Gi"},
            "limits": {"memory": "20Gi", "nvidia.com/gpu": 2},
        }
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert environment["PROCESSES"] == "2"
        assert environment["NNODES"] == "4"
        assert environment["OMP_NUM_THREADS"] == "3"
        mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
        assert mounts == {
            "/etc/adatt": True,
            "/adatt/datasets": True,
            "/adatt/runs": False,
            "/tmp": False,
            "/dev/shm": False,
        }
        shared = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "shared-memory")
        assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}


@pytest.mark.parametrize("resource", RESOURCES)
def test_config_map_holds_the_config_file(resource: str) -> None:
    first = next(yaml.safe_load_all(launched(kind="kubernetes", resource=resource)))
    assert tomllib.loads(first["data"]["run.toml"]) == tomllib.loads(
        (ROOT / "configs" / "quickstart.toml").read_text(encoding="utf-8")
    )


def test_grace_follows_the_config() -> None:
    changes = ["checkpoint.grace_seconds=300.5"]
    script = launched(kind="slurm", changes=changes)
    assert "#SBATCH --signal=USR1@321\n" in script
    assert "export GRACE_SECONDS=311\n" in script

    node = yaml.safe_load(launched(kind="compose", changes=changes))["services"]["node-0"]
    assert node["stop_grace_period"] == "321s"
    assert node["environment"]["GRACE_SECONDS"] == "311"

    for resource in RESOURCES:
        for pod in pod_templates(launched(kind="kubernetes", resource=resource, changes=changes)):
            assert pod["spec"]["terminationGracePeriodSeconds"] == 321


@pytest.mark.parametrize(
    ("resource", "node_0", "failures"),
    [("job", "adatt-0.adatt", 12), ("jobset", "adatt-node-0-0.adatt", 0), ("trainjob", "adatt-node-0-0.adatt", 0)],
)
def test_indexed_job_knows_exit_codes_and_its_first_pod(resource: str, node_0: str, failures: int) -> None:
    spec = _job_spec(launched(kind="kubernetes", resource=resource, nodes=4))
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert spec["backoffLimit"] == failures

    wrong_input, stopped, evicted = spec["podFailurePolicy"]["rules"]
    assert (wrong_input["action"], wrong_input["onExitCodes"]["values"]) == ("FailJob", [2])
    assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [75])
    assert (evicted["action"], evicted["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget"}])

    environment = {entry["name"]: entry for entry in spec["template"]["spec"]["containers"][0]["env"]}
    assert environment["MASTER_ADDR"]["value"] == node_0
    assert "job-completion-index" in environment["NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]


def test_pods_of_a_job_are_named_by_a_headless_service() -> None:
    _, service, job = yaml.safe_load_all(launched(kind="kubernetes", name="july"))
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == "july"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}


@pytest.mark.parametrize(("nodes", "workers"), [(1, None), (2, 1), (8, 7)])
def test_pytorch_job_starts_again_after_a_stop(nodes: int, workers: int | None) -> None:
    document = list(yaml.safe_load_all(launched(kind="kubernetes", resource="pytorchjob", nodes=nodes)))[-1]
    replicas = document["spec"]["pytorchReplicaSpecs"]
    assert replicas["Master"]["replicas"] == 1
    assert replicas.get("Worker", {}).get("replicas") == workers
    for replica in replicas.values():
        assert replica["restartPolicy"] == "ExitCode"  # again after 128 and more
        (container,) = replica["template"]["spec"]["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment["STOPPED_CODE"] == "138"
        assert environment["RDZV_ENDPOINT"] == "adatt-master-0:29500"


def test_compose_nodes_share_all_but_their_number() -> None:
    file = yaml.safe_load(launched(kind="compose", nodes=4, processes=2, gpu=True, port=1234, datasets="/mnt/data"))
    assert list(file["services"]) == ["node-0", "node-1", "node-2", "node-3"]
    last = file["services"]["node-3"]
    assert (
        last["environment"] | {"NODE_RANK": "3", "MASTER_ADDR": "node-0", "MASTER_PORT": "1234"} == last["environment"]
    )
    assert last["environment"]["CUDA_VISIBLE_DEVICES"] == "6,7"
    assert last["read_only"]
    assert last["cap_drop"] == ["ALL"]
    assert last["user"] == "10001:10001"
    folders = {volume["target"]: (volume["source"], volume.get("read_only", False)) for volume in last["volumes"]}
    assert folders["/adatt/datasets"] == ("/mnt/data", True)
    assert folders["/adatt/runs"] == ("./runs", False)


def test_script_asks_for_nodes_and_their_gpus() -> None:
    script = launched(
        kind="slurm", nodes=2, processes=4, gpu=True, cpus=6, memory=20, time="2:00:00", image="r/adatt:1"
    )
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --cpus-per-task=24",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --mem=80G",
        "#SBATCH --time=2:00:00",
        "#SBATCH --requeue",
        "export PROCESSES=4",
        "launcher=(apptainer exec --nv docker://r/adatt:1 python -m launch.entrypoint)",
    ):
        assert f"{line}\n" in script


@pytest.mark.parametrize("text", ["a b", "$(touch x)", "it's", '"', "${X}"])
def test_changes_reach_the_program_as_they_are(text: str) -> None:
    change = f"run.dir=runs/{text}"
    script = launched(kind="slurm", changes=[change])
    command = re.search(r"^command=.*", script, re.MULTILINE)
    assert command is not None
    printed = subprocess.run(
        ["bash", "-c", command[0] + '\nprintf "%s" "${command[-1]}"'], check=True, capture_output=True, text=True
    )
    assert printed.stdout == change

    compose = yaml.safe_load(launched(kind="compose", changes=[change]))
    assert compose["services"]["node-0"]["command"][-1].replace("$$", "$") == change

    (pod,) = pod_templates(launched(kind="kubernetes", changes=[change]))
    assert pod["spec"]["containers"][0]["args"][-1].replace("$$(", "$(") == change


def test_data_in_an_object_store_needs_no_volume() -> None:
    changes = ["data.train=s3://logs/train", "data.test=s3://logs/test"]
    (pod,) = pod_templates(launched(kind="kubernetes", changes=changes))
    assert "datasets" not in {volume["name"] for volume in pod["spec"]["volumes"]}


@pytest.mark.parametrize(
    ("changes", "is_shared"), [([], True), (["run.trace=true"], True), (["checkpoint.dir=s3://logs/july"], False)]
)
def test_checkpoints_in_an_object_store_need_no_claim(changes: list[str], is_shared: bool) -> None:
    (pod,) = pod_templates(launched(kind="kubernetes", changes=changes))
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "runs"]
    assert ("persistentVolumeClaim" in volume) == is_shared
    assert ("emptyDir" in volume) == (not is_shared)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 16}, "data.lanes = 8 cannot be shared by --nodes 16 x --processes 1 = 16 ranks; take 8 ranks"),
        ({"nodes": 3, "processes": 2}, "take 4 or 8 ranks, or for a new run --set data.lanes=12"),
        ({"name": "My job"}, "--name 'My job'"),
        ({"shared_memory": 20}, "--shared-memory 20 is more than --memory 16"),
        ({"kind": "slurm", "resource": "job"}, "--resource job: not an option of slurm"),
        ({"kind": "compose", "time": "1:00"}, "--time 1:00: not an option of compose"),
        ({"kind": "kubernetes", "runs": "My Runs"}, "--runs 'My Runs' is no name of a persistent volume claim"),
        ({"changes": ["run.dir=runs/a\nb"]}, "line break"),
        ({"kind": "kubernetes", "changes": ["checkpoint.dir=saved"]}, "checkpoint.dir = 'saved' is a folder"),
        ({"kind": "compose", "changes": ["run.dir=datasets/run"]}, "run.dir and the data both lie in datasets"),
        ({"kind": "compose", "changes": ["run.dir=../runs/a"]}, "cannot be mounted into a container"),
        ({"kind": "compose", "changes": ["data.test=elsewhere/test"]}, "data.train and data.test lie in datasets and"),
    ],
)
def test_wrong_request_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        launched(**({"kind": "slurm"} | options))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("lanes", "ranks", "enough"), [(8, 16, 16), (8, 6, 12), (64, 48, 96)])
def test_lanes_that_the_ranks_can_share(lanes: int, ranks: int, enough: int) -> None:
    assert lanes_for(lanes, ranks) == enough


def test_command_prints_or_writes_the_file(tmp_path: Path) -> None:
    arguments = ("launch", "slurm", str(ROOT / CONFIG), "--nodes", "4")
    code, printed, _ = run_command(tmp_path, *arguments)
    assert code == 0
    assert "#SBATCH --nodes=4\n" in printed

    path = tmp_path / "jobs" / "train.sbatch"
    code, told, _ = run_command(tmp_path, *arguments, "--out", str(path))
    assert (code, told) == (0, f"written: {path}\n")
    assert path.read_text(encoding="utf-8") == printed.replace("launch/slurm/train.sbatch", str(path))

    code, _, error = run_command(tmp_path, *arguments, "--processes", "3")
    assert code == 2
    assert error.startswith("error: data.lanes = 8 cannot be shared by")


def _job_spec(text: str) -> dict[str, Any]:
    (spec,) = job_specs(text)
    return spec
