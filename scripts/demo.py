"""``make demo``: the memory service and the learner as two processes, and nothing left behind.

Starts the service on a free loopback port with its store in ``runs/demo/memory``, runs the learner against it with
three seeds and the settings of ``demo.toml``, and stops the service when the learner has ended, was interrupted, or
failed. Arguments are passed on to ``learner run`` behind those of the demo: ``--seeds 5``, ``--config mine.toml``.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from memory_service.testing import NotStartedError, ServiceProcess

OUT = Path("runs/demo")
DATA = Path(__file__).parent.parent / "data"
SETTINGS = Path(__file__).parent / "demo.toml"
SEEDS = 3
"""Fewer have no interval to speak of: by Student's t, that of two seeds is three times as wide."""
START_SECONDS = 60
STOP_SECONDS = 15


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    started = time.monotonic()
    commands = Path(sys.executable).parent
    try:
        # A session of its own: Ctrl-C must not reach it while the learner still needs its memory.
        service = ServiceProcess(OUT / "memory", log=OUT / "service.log", own_session=True, start_seconds=START_SECONDS)
    except NotStartedError as error:
        sys.exit(f"{error}\nsee {OUT / 'service.log'}")
    learner = None
    try:
        print(f"memory service: {service.url} (store {OUT / 'memory'}, log {OUT / 'service.log'})", flush=True)
        demo = ["--config", str(SETTINGS), "--seeds", str(SEEDS)]
        learner = subprocess.Popen(
            [commands / "learner", "run", "--url", service.url, "--out", OUT, *demo, *sys.argv[1:]],
            env=_environment(),
        )
        status = _wait(learner)
    finally:
        if learner is not None:
            _stop(learner)
        with contextlib.suppress(TimeoutError):
            service.stop(seconds=STOP_SECONDS)
    if status == 0:
        print(f"done in {time.monotonic() - started:.0f} s")
        _say_how_to_look(commands)
    return status


def _say_how_to_look(commands: Path) -> None:
    """The commands that open what is there now."""
    opener = next(filter(shutil.which, ("xdg-open", "open")), "in a browser:")
    program = commands / "memory-service"
    # As short as it can be typed: where the environment is outside this folder, "../../.." says less than its path.
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    serve = [str(program), "serve", "--data", str(OUT / "memory"), "--open"]
    print(f"the report:  {opener} {OUT / 'report.html'}")
    print(f"the memory:  {shlex.join(serve)}")


def _wait(learner: subprocess.Popen[bytes]) -> int:
    """The learner's exit status. After Ctrl-C it stops by itself and says how to go on."""
    while True:
        try:
            return learner.wait()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(learner: subprocess.Popen[bytes]) -> None:
    if learner.poll() is None:
        learner.terminate()
        try:
            learner.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            learner.kill()
            learner.wait()


def _environment() -> dict[str, str]:
    # Weights are read from folders; without this, a library may try to reach a hub and wait for its time-out.
    return {"EXEMPLAR_MEMORY_DATA": str(DATA.resolve())} | os.environ | {"HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    sys.exit(main())
