"""dm-reverb as a contestant. It needs TensorFlow 2.15 and an older Python, so it lives in an environment of its
own, and its own client keeps the time there."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.common.processes import ROOT, ChildProcess
from benchmarks.common.records import Batch
from benchmarks.storage.contestants.peer import PIXELS_NOT_MANY, PIXELS_NOT_MEDIUM, Peer, Read

ENVIRONMENT = ROOT / "runs" / "reverb-venv"
REQUIREMENTS = ("dm-reverb[tensorflow]==0.14.0", "tensorflow==2.15.*")
_INSTALL_SECONDS = 900
_WORKER = Path(__file__).with_name("reverb_worker.py")


class ReverbMissingError(Exception):
    """dm-reverb cannot be had here; the message says why."""


def prepare(environment: Path = ENVIRONMENT) -> Path:
    """The interpreter that has dm-reverb; installed when it is not there yet, which takes 2 GB and a minute.

    Raises:
        ReverbMissingError: it does not install here.
    """
    python = environment / "bin" / "python"
    installed = environment / "installed"
    if installed.exists() and installed.read_text() == "\n".join(REQUIREMENTS):
        return python
    if sys.platform != "linux":
        raise ReverbMissingError(f"dm-reverb has no packages for {sys.platform}")
    base = sys.executable if sys.version_info < (3, 12) else shutil.which("python3.11") or shutil.which("python3.10")
    if base is None:
        raise ReverbMissingError("dm-reverb with TensorFlow 2.15 needs Python 3.11 or 3.10, and neither is here")
    shutil.rmtree(environment, ignore_errors=True)
    for command in (
        [base, "-m", "venv", str(environment)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
        [str(python), "-c", "import reverb, tensorflow"],
    ):
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS, stdin=subprocess.DEVNULL
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
            shutil.rmtree(environment, ignore_errors=True)
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            raise ReverbMissingError(f"{' '.join(command[1:4])} failed: {said[-1] if said else error}") from error
        except BaseException:
            shutil.rmtree(environment, ignore_errors=True)
            raise
    installed.write_text("\n".join(REQUIREMENTS))
    return python


class Reverb(Peer):
    """A reverb server in one process and its client in another; bodies as strings, one item a record."""

    name = "dm-reverb, Client.sample"
    note = "in memory only, not durable; a server in another process"
    on_disk = False
    not_many = "minutes, and a kilobyte of memory for each record"
    form: ClassVar[str] = "bytes"
    """What an item holds, as the worker calls it."""
    dataset: ClassVar[str] = "dm-reverb, TrajectoryDataset"
    python: Path = ENVIRONMENT / "bin" / "python"

    def __init__(self, directory: Path, *, capacity: int, max_body: int) -> None:
        super().__init__(directory, capacity=capacity, max_body=max_body)
        command = [str(self.python), str(_WORKER), "client", str(capacity), self.form]
        self._worker = ChildProcess(command, directory / "reverb.log")
        self._exchange = directory / "bodies"

    def push(self, batch: Batch) -> None:
        self.time_push(batch)

    def time_push(self, batch: Batch) -> float:
        bodies = self.contents(batch)
        self._exchange.write_bytes(b"".join(bodies))
        lengths = [len(body) for body in bodies]
        command = {"bodies": str(self._exchange), "lengths": lengths, "shapes": self._shapes(batch)}
        return float(self._ask(do="push", **command)["seconds"])

    def sample(self, count: int) -> object:
        lengths = self._ask(do="contents", count=count, to=str(self._exchange))["lengths"]
        with self._exchange.open("rb") as file:
            return [file.read(length) for length in lengths]

    def contents_of(self, sampled: object) -> list[bytes]:
        assert isinstance(sampled, list)
        return sampled

    def reads(self) -> dict[str, Read]:
        def asked(how: str) -> Read:
            return lambda count: float(self._ask(do="sample", count=count, how=how)["seconds"])

        return {self.name: asked("client"), self.dataset: asked("dataset")}

    def server_bytes(self) -> int:
        """Resident memory of the server."""
        return int(self._ask(do="memory")["server_bytes"])

    def forget(self) -> None:
        """Nothing is on disk."""

    def close(self) -> None:
        try:
            if self._worker.process.poll() is None:
                assert self._worker.process.stdin is not None
                # The end of its commands ends it, and its server with it.
                self._worker.process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._worker.process.wait(30)
        finally:
            self._worker.close()

    def _shapes(self, batch: Batch) -> list[tuple[int, ...]] | None:
        """Shape of each item's first array, where it has one."""
        return None

    def _ask(self, **command: object) -> dict[str, Any]:
        self._worker.write_line(json.dumps(command))
        answer = self._worker.read_line()
        if not answer:
            raise RuntimeError("dm-reverb ended")
        return dict(json.loads(answer))


class ReverbPixels(Reverb):
    """The same server as it is made to be used: an item holds the exemplar's decoded patches and its tokens."""

    name = "dm-reverb, pixels, Client.sample"
    note = "in memory only, not durable; an item = decoded patches and tokens"
    not_medium = PIXELS_NOT_MEDIUM
    not_many = PIXELS_NOT_MANY
    form = "pixels"
    dataset = "dm-reverb, pixels, TrajectoryDataset"

    def contents(self, batch: Batch) -> Sequence[bytes]:
        return batch.pixel_bodies()

    def _shapes(self, batch: Batch) -> list[tuple[int, ...]]:
        return [patches.shape for patches in batch.patches]
