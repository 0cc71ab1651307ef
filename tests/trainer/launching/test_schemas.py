"""Files of jobs against the schemas of the programs that read them, where their checkers are installed."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.launching.rendering import RESOURCES, ROOT, job_specs, launched, pod_templates

SIZES: list[dict[str, Any]] = [{}, {"nodes": 1}, {"nodes": 4, "processes": 2, "gpu": True}]


@pytest.mark.parametrize("options", SIZES)
def test_script_is_clean_for_shellcheck(options: dict[str, Any], tmp_path: Path) -> None:
    script = tmp_path / "train.sbatch"
    script.write_text(launched(kind="slurm", **options), encoding="utf-8")
    subprocess.run(["bash", "-n", script], check=True)
    _check("shellcheck", str(script))


@pytest.mark.parametrize("options", SIZES)
def test_compose_file_fits_its_schema(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(launched(kind="compose", **options), encoding="utf-8")
    _check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(path))


@pytest.mark.parametrize("options", SIZES)
@pytest.mark.parametrize("resource", RESOURCES)
def test_kubernetes_file_fits_the_schemas(resource: str, options: dict[str, Any]) -> None:
    """Of kinds that Kubernetes itself does not know: their Jobs and pods, and all else."""
    checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    yaml = pytest.importorskip("yaml")
    text = launched(kind="kubernetes", resource=resource, **options)

    own = [entry for entry in yaml.safe_load_all(text) if entry["apiVersion"] in ("v1", "batch/v1")]
    jobs = [
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": spec} for spec in job_specs(text)
    ]
    pods = [
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
        for template in pod_templates(text)
    ]
    assert pods
    for document in [*own, *jobs, *pods]:
        checker.validate(document, "1.37", strict=True)


def test_dockerfile_is_clean_for_hadolint() -> None:
    _check("hadolint", str(ROOT / "Dockerfile"))


def _check(checker: str, *arguments: str) -> None:
    beside = Path(sys.executable).parent / checker
    program = str(beside) if beside.exists() else shutil.which(checker)
    if program is None:
        pytest.skip(f"{checker} is not installed")
    result = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
