"""A folder of own pictures, from files to a report: `learner run FOLDER`, and a few settings that make it short.

The pictures here are pieces of six photographs, 20 of each, in a folder for each class; --pictures takes such a folder
of yours. Classes come two at a time; whole pictures and masked exemplars are compared in the same bytes. Starts a
service of its own, takes one to two minutes on two cores, and downloads weights (180 MB) at first. It prints the
learner's table and where its report is. Other arguments are passed on to the command.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image
from shared import CLASSES, pieces, service

SETTINGS = {
    "data.image_size": 64,
    "data.base_classes": 2,
    "data.classes_per_phase": 2,
    "backbone.blocks": [0, 1, 2, 3, 4, 5],
    "train.base_epochs": 2,
    "train.ssf_epochs": 1,
    "memory.budget_bytes": 8_000,
}


def write_pictures(folder: Path, classes: int = 6, number: int = 20) -> None:
    for class_id, name in enumerate(CLASSES[:classes]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place, piece in enumerate(pieces(class_id, number, side=96)):
            Image.fromarray(piece).save(folder / name / f"{place}.jpg", quality=95)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, help="a folder with a folder for each class; default: write some")
    parser.add_argument("--out", type=Path, default=Path("runs/own-pictures"))
    arguments, more = parser.parse_known_args()
    pictures = arguments.pictures or arguments.out / "pictures"
    if not pictures.exists() and arguments.pictures is None:
        write_pictures(pictures)
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    with service() as url:
        command = [sys.executable, "-m", "learner", "run", str(pictures), "--url", url, "--out", str(arguments.out)]
        return subprocess.run([*command, "--methods", "full,masked", *settings, *more]).returncode


if __name__ == "__main__":
    sys.exit(main())
