"""Build the wheel and the source archive, and install the wheel with extras, each in an environment of its own.

    python scripts/check_wheels.py                     base, service
    python scripts/check_wheels.py learner lightning   these; learner,service is both in one environment
    python scripts/check_wheels.py --python python3.13 with another Python
    python scripts/check_wheels.py --wheel FILE        of a wheel that was built already

In each the commands and packages that belong to it are started, from an empty folder: what works there works without
the checkout. Prints what was checked, and with which Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LOOP = """
import numpy, tempfile
from client import MemoryClient, record_from_image
from memory_service.testing import ServiceProcess
with tempfile.TemporaryDirectory() as folder, ServiceProcess(f"{folder}/memory") as process:
    with MemoryClient(process.url) as memory:
        buffer = memory.create_buffer("wheel", budget_bytes=100_000)
        pixels = numpy.arange(32 * 32 * 3, dtype=numpy.uint8).reshape(32, 32, 3)
        assert buffer.push([record_from_image(pixels, class_id=0)]).kept == 1
        assert buffer.sample(4).images()[0].shape == (32, 32, 3)
"""
_RUN = """
import numpy, pathlib
from PIL import Image
from learner.cli import main
from memory_service.testing import ServiceProcess
for name in ("ant", "bee", "cat", "dog"):
    folder = pathlib.Path("pictures", name)
    folder.mkdir(parents=True)
    for n in range(6):
        pixels = numpy.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
small = "data.image_size=32 data.base_classes=2 data.classes_per_phase=2 backbone.kind=small backbone.patch_px=8 "
small += "backbone.hidden_size=64 backbone.num_layers=2 train.base_epochs=1 train.ssf_epochs=1 train.batch_size=8 "
small += "train.bf16=off memory.budget_bytes=20000"
settings = [part for setting in small.split() for part in ("--set", setting)]
with ServiceProcess("memory") as process:
    assert main(["run", "pictures", "--url", process.url, "--out", "run", "--methods", "masked", *settings]) == 0
assert pathlib.Path("run/report.html").stat().st_size > 10_000
"""
CHECKS: dict[str, list[list[str]]] = {
    "base": [["-c", "import client, memory_format; print(memory_format.WebP().quality)"]],
    "service": [["-m", "memory_service", "--help"], ["-c", _LOOP]],
    "learner": [
        ["-m", "learner", "run", "--help"],
        ["-c", "import client.mixed, learner.run.config, learner.model.vit"],
    ],
    "learner,service": [["-c", _RUN]],
    "lightning": [["-c", "import learner.adapters.lightning"]],
    "huggingface": [["-c", "import learner.adapters.huggingface"]],
    "torchdata": [["-c", "import learner.adapters.torchdata"]],
    "avalanche": [["-c", "import learner.adapters.avalanche, learner.adapters.avalanche_icarl"]],
    "torchrl": [["-c", "import learner.adapters.torchrl"]],
}
"""What is run by the environment's Python, by extras. ``base`` is the wheel alone."""


def build(folder: Path) -> Path:
    """The wheel, made of the source archive, as an index's users would make it."""
    subprocess.run([sys.executable, "-m", "build", "--quiet", "--outdir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
        files = set(archive.namelist())
    packages = {name for name in names if not name.endswith(".dist-info")}
    assert packages == {"client", "learner", "memory_format", "memory_service"}, packages
    for package in sorted(packages):
        assert f"{package}/py.typed" in files, f"{package} without py.typed"
    return wheel


def check(extra: str, wheel: Path, python: str, folder: Path) -> None:
    """Install the wheel with an extra, and run what belongs to it."""
    environment = folder / extra
    subprocess.run([python, "-m", "venv", environment], check=True)
    program = str(environment / ("Scripts" if os.name == "nt" else "bin") / "python")
    empty = folder / f"{extra}-work"
    empty.mkdir()
    # A path to the checkout would hide what the wheel lacks, also from pip.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    wanted = str(wheel) if extra == "base" else f"{wheel}[{extra}]"
    pip = ["-m", "pip", "--disable-pip-version-check"]
    # `pip check` says what is wrong on stdout, and with --quiet nowhere.
    for arguments in ([*pip, "install", "--quiet", wanted], [*pip, "check"], *CHECKS[extra]):
        done = subprocess.run([program, *arguments], cwd=empty, env=clean, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{done.stdout}{extra}: failed with {done.returncode}: {' '.join(arguments)}")
    found = subprocess.run([program, "-V"], check=True, capture_output=True, text=True).stdout.strip()
    print(f"{extra}: {len(CHECKS[extra])} checks with {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(CHECKS)}; default: base service")
    parser.add_argument("--wheel", type=Path, help="one that was built already")
    parser.add_argument("--python", default=sys.executable, help="makes the environments")
    arguments = parser.parse_args()
    if unknown := set(arguments.extras) - {*CHECKS}:
        parser.error(f"there are no checks for {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as name:
        wheel = arguments.wheel.resolve() if arguments.wheel else build(Path(name) / "dist")
        for extra in arguments.extras or ["base", "service"]:
            check(extra, wheel, arguments.python, Path(name))


if __name__ == "__main__":
    main()
