"""``make check-objects``: the tests of segments as objects, against object stores that are no mocks.

    python scripts/check_objects.py
    python scripts/check_objects.py -k away

SeaweedFS has to pass all that there is for objects and replicas, and the contract of stores. ``rclone serve s3``
ignores conditions, and has to be refused at the start. Both are started here, on loopback, and end with it; what they
hold lies in a temporary folder. Arguments go to pytest. An object store that runs already is named to pytest itself:
``pytest --object-store s3://BUCKET/PREFIX``, with ``AWS_ENDPOINT_URL`` and keys in the environment.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from memory_format import StorageError
from memory_service.store.segments.bucket import Bucket
from memory_service.testing import NotStartedError, ServiceProcess

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TESTS = (
    *(f"tests/memory_service/test_{name}.py" for name in ("objects", "outside", "replicas", "replica_processes")),
    *(
        f"tests/memory_service/test_store_contract.py::Test{name}"
        for name in ("ObjectsAndSqlite", "ObjectsAndPostgres", "Replica", "ReplicasInTurn")
    ),
)
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "geheim", "AWS_REGION": "us-east-1"}
START_SECONDS = 60


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    os.environ.update(KEYS)
    with TemporaryDirectory(prefix="check-objects-") as name:
        folder = Path(name)
        with _seaweedfs(folder / "seaweedfs"):
            command = [sys.executable, "-m", "pytest", "-q", *TESTS, "--object-store", "s3://bucket/tests", *arguments]
            if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
                return status
        with _rclone(folder / "rclone"):
            return _refused(folder / "store")


def _refused(data: Path) -> int:
    log = data / "log"
    try:
        with ServiceProcess(data, "--segments", "s3://bucket/x", log=log):
            print("it is taken for one that honours conditions", file=sys.stderr)
            return 1
    except NotStartedError:
        print(log.read_text().strip())
        return int("does not honour conditional writes" not in log.read_text())


@contextmanager
def _seaweedfs(folder: Path) -> Iterator[None]:
    """With a bucket named ``bucket``."""
    parts = ("master", "volume", "filer", "s3", "admin")
    ports = _free_ports(2 * len(parts))
    command = [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=bucket", "-volume.max=0"]
    for at, part in enumerate(parts):
        command += [f"-{part}.port={ports[2 * at]}", f"-{part}.port.grpc={ports[2 * at + 1]}"]
    # Nothing of the rest is needed, and nothing is told to anybody.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", "-webdav=false"]
    command += ["-admin.ui=false", "-master.telemetry=false"]
    with _running(["weed", "mini", *command], folder, ports[2 * parts.index("s3")], "bucket"):
        yield


@contextmanager
def _rclone(folder: Path) -> Iterator[None]:
    """With a bucket named ``bucket``, a folder."""
    (folder / "bucket").mkdir(parents=True)
    (port,) = _free_ports(1)
    keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
    command = ["rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys, "--config", "", str(folder)]
    with _running(command, folder, port, "bucket"):
        yield


@contextmanager
def _running(command: Sequence[str], folder: Path, port: int, bucket: str) -> Iterator[None]:
    """One of the environment's programs, until it answers; the environment then says where it is."""
    program = BIN / command[0]
    print(subprocess.run([program, "version"], check=True, capture_output=True, text=True).stdout.splitlines()[0])
    folder.mkdir(exist_ok=True)
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        log = stack.enter_context((folder.parent / f"{command[0]}.log").open("w+"))
        process = subprocess.Popen([program, *command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        last = time.monotonic() + START_SECONDS
        while not _answers(bucket):
            if process.poll() is not None or time.monotonic() > last:
                log.seek(0)
                sys.exit(f"{command[0]} did not start: {log.read()[-2000:]}")
            time.sleep(0.2)
        sys.stdout.flush()
        try:
            yield
        finally:
            if process.poll() is not None:
                log.seek(0)
                print(f"{command[0]} ended meanwhile: {log.read()[-4000:]}", file=sys.stderr)


def _answers(bucket: str) -> bool:
    try:
        Bucket(f"s3://{bucket}/there").replace("probe", b"")
    except StorageError:
        return False
    return True


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
