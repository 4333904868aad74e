"""Photographs of things, cut out: the stamps of Debian's ``tuxpaint-stamps-default``, fetched by apt.

Nothing is installed and nobody needs to be root: the package is downloaded, and the pictures and their descriptions are
unpacked below the data folder, once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from learner.data.fetch import data_dir

PACKAGE = "tuxpaint-stamps-default"
_ROOT = PurePosixPath("usr/share/tuxpaint/stamps")
_SECONDS = 300

# The rest of the package is letters, signs and drawings.
_FOLDERS = ("animals", "food", "hobbies", "household", "plants", "vehicles")
_DRAWINGS = ("cartoon", "toys", "dinosaur", "plastic", "hedgehog", "pizza")
_LEAST_PX = 200
"""Longer side of the smallest stamps taken: those below would have to be enlarged, which makes them easy to code."""


class StampsMissingError(RuntimeError):
    """The stamps are not there and cannot be fetched; the message says why."""


@dataclass(frozen=True)
class Stamp:
    """One cut-out: an RGBA picture and what its authors say it shows."""

    name: str
    picture: Image.Image
    description: str


def load_stamps(number: int, directory: Path | None = None) -> list[Stamp]:
    """``number`` stamps, evenly spaced in the order of their names; all of them where there are fewer.

    Raises:
        StampsMissingError: there is no apt, or it cannot get the package.
    """
    root = _fetched(directory)
    found = []
    for path in sorted(root.rglob("*.png")):
        name = path.relative_to(root).as_posix()
        if name.split("/")[0] not in _FOLDERS or any(word in name for word in _DRAWINGS):
            continue
        with Image.open(path) as picture:
            if picture.mode == "RGBA" and max(picture.size) >= _LEAST_PX and path.with_suffix(".txt").exists():
                found.append(path)
    if not found:
        raise StampsMissingError(f"{root} holds no photo stamps; delete it to fetch the package again")
    number = min(number, len(found))
    return [_stamp(found[place * len(found) // number], root) for place in range(number)]


def _stamp(path: Path, root: Path) -> Stamp:
    # First line: English; below it one line for each other language.
    description = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0].strip()
    with Image.open(path) as picture:
        picture.load()
        return Stamp(path.relative_to(root).with_suffix("").as_posix(), picture.copy(), description)


def _fetched(directory: Path | None) -> Path:
    """The folder of stamps, which appears whole or not at all."""
    folder = data_dir(directory) / "packages" / "debian" / PACKAGE
    if folder.is_dir():
        return folder / "stamps"
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise StampsMissingError(f"there is no {command} here: the stamps come as Debian package {PACKAGE}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        package, content = Path(scratch) / "package", Path(scratch) / "content"
        package.mkdir()
        (content / "stamps").mkdir(parents=True)
        _run("apt-get", "download", PACKAGE, cwd=package)
        (archive,) = package.iterdir()
        _unpack(archive, content)
        os.sync()  # or a folder with empty files could stand there after a power cut
        try:
            content.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder / "stamps"


def _run(*command: str, cwd: Path) -> None:
    shown = " ".join(command)
    try:
        subprocess.run(
            command,
            cwd=cwd,
            check=True,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=os.environ | {"LC_ALL": "C"},
        )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise StampsMissingError(f"`{shown}` failed: {reason} (does `apt-get update` help?)") from error
    except subprocess.TimeoutExpired as error:
        raise StampsMissingError(f"`{shown}` took more than {_SECONDS} s") from error


def _unpack(archive: Path, content: Path) -> None:
    """Pictures, descriptions and the statement of licences; the sounds, most of the package, are left out."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as files:
            for member in files:
                path = PurePosixPath(member.name)
                stream = files.extractfile(member) if member.isfile() else None
                if stream is None or ".." in path.parts:
                    continue
                if path.is_relative_to(_ROOT) and path.suffix in (".png", ".txt"):
                    target = content / "stamps" / path.relative_to(_ROOT)
                elif path.name == "copyright":
                    target = content / path.name
                else:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stream.read())
    if process.returncode:
        raise StampsMissingError(f"`dpkg-deb --fsys-tarfile {archive.name}` failed with status {process.returncode}")
