"""An object store with the protocol of S3, on this machine: moto's server, which may answer badly now and then.

`python -m tests.store PORT_FILE FAIL_EVERY`: each so many requests one is throttled (503), broken off, or fails (500).
Who signs as READER may not write, who signs as STRANGER or not at all may do nothing.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

BUCKET = "logs"
SECRET = "hunter2"
READER, STRANGER = "reader", "stranger"


class Store:
    """A store that is running."""

    def __init__(self, port: int, counts: Path) -> None:
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._counts = counts
        self._down = counts.with_name("down")
        self.client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="tester",
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=BUCKET)

    def upload(self, folder: Path) -> None:
        """All files of a folder, under their paths below it."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.upload_file(str(path), BUCKET, str(path.relative_to(folder)))

    def download(self, prefix: str, folder: Path) -> None:
        """The files below a prefix."""
        folder.mkdir(parents=True)
        for entry in self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
            if entry["Key"].endswith("/"):  # the mark of a folder
                continue
            self.client.download_file(BUCKET, entry["Key"], str(folder / Path(entry["Key"]).name))

    @contextmanager
    def away(self, at: str) -> Iterator[None]:
        """Context in which each request for an object whose path holds `at` fails."""
        self._down.write_text(at)
        try:
            yield
        finally:
            self._down.unlink()

    def names(self, prefix: str = "") -> list[str]:
        """All objects below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    @property
    def failures(self) -> int:
        """Requests that were answered badly so far."""
        return self._counts.stat().st_size if self._counts.exists() else 0


@contextmanager
def running_store(folder: Path, fail_every: int = 0) -> Iterator[Store]:
    """A store with an empty bucket; `fail_every` 0: it answers well."""
    port_file = folder / "port"
    command = [sys.executable, "-m", "tests.store", str(port_file), str(fail_every)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not port_file.exists():
                assert process.poll() is None, "the store does not start"
                assert time.monotonic() < deadline, "the store takes too long to start"
                time.sleep(0.05)
            yield Store(int(port_file.read_text()), folder / "failures")
        finally:
            process.kill()


class Failing:
    """A WSGI application that answers badly each so many requests for objects and listings."""

    def __init__(self, application: Callable[..., Iterable[bytes]], every: int, counts: Path) -> None:
        self._application = application
        self._every = every
        self._counts = counts
        self._down = counts.with_name("down")
        self._requests = itertools.count(1)
        self._kinds = itertools.cycle(["throttled", "cut", "broken"])

    def __call__(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        is_boto = "Boto3" in environment.get("HTTP_USER_AGENT", "")
        if not is_boto and _is_refused(environment):
            return _error(start_response, "403 Forbidden", "AccessDenied")
        if not is_boto and self._down.exists() and self._down.read_text() in environment["PATH_INFO"]:
            return _error(start_response, "400 Bad Request", "Unavailable")  # clients would try a 503 again for long
        if is_boto or not self._every or next(self._requests) % self._every:
            return self._application(environment, start_response)

        with self._counts.open("ab") as file:
            file.write(b".")
        kind = next(self._kinds)
        if kind == "cut" and environment["REQUEST_METHOD"] == "GET":
            body = b"".join(self._application(environment, start_response))
            return _cut(body)
        if kind == "throttled":
            return _error(start_response, "503 Slow Down", "SlowDown")
        return _error(start_response, "500 Error", "InternalError")


def _is_refused(environment: dict[str, Any]) -> bool:
    signed = environment.get("HTTP_AUTHORIZATION", "")
    is_reading = environment["REQUEST_METHOD"] in ("GET", "HEAD")
    return not signed or f"={STRANGER}/" in signed or (f"={READER}/" in signed and not is_reading)


def _error(start_response: Callable[..., Any], status: str, code: str) -> list[bytes]:
    start_response(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>later</Message></Error>".encode()]


def _cut(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionError("cut, as asked")


def _serve(port_file: Path, every: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Failing(DomainDispatcherApplication(create_backend_app), every, port_file.parent / "failures")
    server = make_server("127.0.0.1", 0, application, threaded=True)
    partial = port_file.with_suffix(".partial")
    partial.write_text(str(server.port))
    os.replace(partial, port_file)
    server.serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
