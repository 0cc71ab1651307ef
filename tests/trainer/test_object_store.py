"""Training from a store that throttles, cuts connections and fails: the same losses as from a disk, no row lost.

The store speaks the protocol of S3 over HTTP (`tests.store`).
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

import data.storage.retries
from data.discovery.dataset import read_manifest
from data.discovery.footer import UnreadableError
from data.errors import DataError
from data.pipeline.row_groups import read_row_group
from tests.commands import started_command
from tests.jobs import announced, free_port, run_job
from tests.store import BUCKET, SECRET, Store, running_store
from tests.trainer.datasets import config_values, write_dataset

FAIL_EVERY = 29
SAMPLES = 2_048


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    write_dataset(folder / "train", 2_500, seed=1)
    write_dataset(folder / "test", 500, seed=2)
    return folder


@pytest.fixture(scope="module")
def store(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running_store(tmp_path_factory.mktemp("store"), FAIL_EVERY) as running:
        running.upload(local)
        yield running


def write_config(folder: Path, run: str, train: str, test: str) -> str:
    """A config whose row groups come in blocks."""
    values = config_values(
        folder,
        run={"dir": str(folder / run), "trace": True},
        data={"train": train, "test": test, "block_rows": 40},
        train={"samples": SAMPLES},
        checkpoint={"every_samples": 512},
    )
    path = folder / f"{run}.toml"
    path.write_text(tomli_w.dumps(values))
    return str(path)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "train.jsonl").read_text().splitlines()]


def metrics(run: Path) -> list[tuple[str, float | None, float | None]]:
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    return [(record["task"], record["ne"], record["mse"]) for record in map(json.loads, lines)]


def test_a_life_on_a_store(local: Path, store: Store, tmp_path: Path) -> None:
    """Trained, killed, resumed, audited, evaluated and predicted from and to it."""
    on_disk = write_config(tmp_path, "disk", str(local / "train"), str(local / "test"))
    (trained,) = run_job([["train", on_disk]], [{}])
    assert trained.code == 0, trained.err

    config = write_config(tmp_path, "store", f"s3://{BUCKET}/train", f"s3://{BUCKET}/test")
    run = tmp_path / "store"
    with started_command(tmp_path, "train", config, environment=store.environment) as command:
        command.wait_until(lambda: any((run / "checkpoints").glob("*")))
        command.signal(signal.SIGKILL)
        command.end()
    (resumed,) = run_job([["train", config]], [store.environment])
    assert resumed.code == 0, resumed.err
    assert losses(run) == losses(tmp_path / "disk")
    assert metrics(run) == metrics(tmp_path / "disk")

    (audited,) = run_job([["audit", str(run), "--json"]], [{}])
    assert audited.code == 0, audited.out
    for path in run.rglob("*"):
        assert SECRET.encode() not in (path.read_bytes() if path.is_file() else b"")

    port = free_port()
    ranks = [announced(rank, 2, port) | store.environment for rank in range(2)]
    evaluate = ["evaluate", str(run), "--data", f"s3://{BUCKET}/test/part-*.parquet", "--json"]
    evaluated = run_job([evaluate] * 2, ranks)
    assert [ended.code for ended in evaluated] == [0, 0], evaluated[0].err
    assert [record["task"] for record in map(json.loads, evaluated[0].out.splitlines())] == ["watch", "click", "rare"]

    (stats,) = run_job([["stats", f"s3://{BUCKET}/train"]], [store.environment])
    assert stats.code == 0, stats.err
    assert f"counts stored in {BUCKET}/_adatt/" in stats.out
    assert store.client.list_objects_v2(Bucket=BUCKET, Prefix="_adatt/")["KeyCount"] >= 5

    port = free_port()
    ranks = [announced(rank, 2, port) | store.environment for rank in range(2)]
    predict = [
        "predict",
        str(run),
        "--data",
        f"s3://{BUCKET}/test",
        "--out",
        f"s3://{BUCKET}/scored",
        "--columns",
        "user",
    ]
    predicted = run_job([predict] * 2, ranks)
    assert [ended.code for ended in predicted] == [0, 0], predicted[0].err
    store.download("scored/", tmp_path / "scored")
    scored = pq.read_table(tmp_path / "scored")
    assert scored["row"].to_pylist() == list(range(500))
    assert scored["user"].to_pylist() == pq.read_table(local / "test")["user"].to_pylist()
    assert store.failures > 5


def test_an_object_that_is_gone_is_named(store: Store, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(data.storage.retries, "WAITS_SECONDS", (0.01,) * 5)
    store.client.upload_file(str(local / "test" / "part-0.parquet"), BUCKET, "other/a.parquet")
    manifest = read_manifest(f"s3://{BUCKET}/other", cache=None)
    store.client.delete_object(Bucket=BUCKET, Key="other/a.parquet")
    with pytest.raises(UnreadableError, match=rf"^row group 0 of {BUCKET}/other/a.parquet: cannot be read"):
        read_row_group(manifest, 0, ["user"])
    with pytest.raises(DataError, match=rf"^dataset s3://{BUCKET}/other: no such file or folder$"):
        read_manifest(f"s3://{BUCKET}/other", cache=None)
