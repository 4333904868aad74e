"""``make demo``: the memory service and the learner as two processes, and nothing left behind.

Starts the service on a free loopback port with its store in ``runs/demo/memory``, runs the learner against it, and
stops the service when the learner has ended, was interrupted, or failed. Arguments are passed on to ``learner run``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

OUT = Path("runs/demo")
DATA = Path(__file__).parent.parent / "data"
START_SECONDS = 60


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    started = time.monotonic()
    commands = Path(sys.executable).parent
    with (OUT / "service.log").open("ab") as log:
        service = subprocess.Popen(
            [commands / "memory-service", "serve", "--data", OUT / "memory", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=log,
            # A process group of its own: Ctrl-C must not reach it while the learner still needs its memory.
            start_new_session=True,
        )
        learner = None
        try:
            url = _listening(service)
            print(f"memory service: {url} (store {OUT / 'memory'}, log {OUT / 'service.log'})", flush=True)
            learner = subprocess.Popen(
                [commands / "learner", "run", "--url", url, "--out", OUT, *sys.argv[1:]], env=_environment()
            )
            status = _wait(learner)
        finally:
            if learner is not None:
                _stop(learner)
            _stop(service)
    if status == 0:
        print(f"done in {time.monotonic() - started:.0f} s; open {OUT / 'report.html'} in a browser")
    return status


def _listening(service: subprocess.Popen[bytes]) -> str:
    """The service's address, from the line it prints when it is ready."""
    assert service.stdout is not None
    line = service.stdout.readline().decode()
    if "listening on " not in line:
        service.wait(timeout=START_SECONDS)
        sys.exit(f"the memory service did not start (status {service.returncode}); see {OUT / 'service.log'}")
    return line.split("listening on ")[1].split()[0]


def _wait(learner: subprocess.Popen[bytes]) -> int:
    """The learner's exit status. After Ctrl-C it stops by itself and says how to go on."""
    while True:
        try:
            return learner.wait()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    # Weights are read from folders; without this, a library may try to reach a hub and wait for its time-out.
    return {"EXEMPLAR_MEMORY_DATA": str(DATA.resolve())} | os.environ | {"HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    sys.exit(main())
