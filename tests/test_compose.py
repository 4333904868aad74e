"""docker-compose.yml: what its containers may, its table of settings, and whose the learner's files are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
BUILT = {name: service for name, service in SERVICES.items() if "build" in service}
AS_OWNER = ROOT / "deploy" / "as-owner"


@pytest.mark.parametrize("name", SERVICES)
def test_containers_may_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    # Who begins as root does so to be somebody else.
    if service.get("user") == "root":
        assert service["entrypoint"][0] == AS_OWNER.name
        # The init stays root, and hands signals on to that user's process.
        assert service["init"] is True
        assert "KILL" in service["cap_add"]
    # Published on loopback.
    assert all(re.match(r"\$\{\w+:-127\.0\.0\.1:", port) for port in service.get("ports", []))


def test_the_learner_waits_for_a_healthy_service() -> None:
    assert "HEALTHCHECK" in (ROOT / SERVICES["memory"]["build"]["dockerfile"]).read_text()
    for name in ("learner", "learner-gpu"):
        assert SERVICES[name]["depends_on"] == {"memory": {"condition": "service_healthy"}}


def test_only_the_image_for_a_gpu_has_cuda() -> None:
    assert SERVICES["learner"]["build"]["args"]["TORCH_BACKEND"] == "${TORCH_BACKEND-cpu}"
    assert SERVICES["learner-gpu"]["build"]["args"]["TORCH_BACKEND"] == ""
    assert SERVICES["learner-gpu"]["profiles"] == ["gpu"]
    images = [service["image"] for service in BUILT.values()]
    assert len(set(images)) == len(images)
    # The others are somebody's: of one version, and its bytes.
    for service in SERVICES.values():
        assert service["image"] in images or re.fullmatch(r"[a-z/]+:[0-9.]+@sha256:[0-9a-f]{64}", service["image"])


def test_every_setting_is_in_the_table() -> None:
    table = (ROOT / "docs/howto/containers.md").read_text()
    assert dict(re.findall(r"^\| `(\w+)` \| (?:`(.+?)` )?\|", table, re.MULTILINE)) == _settings()


def test_images_copy_what_the_builder_is_given() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    given = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    for service in BUILT.values():
        for copied in re.findall(r"^COPY (.*) \S+$", (ROOT / service["build"]["dockerfile"]).read_text(), re.MULTILINE):
            assert set(copied.split()) <= given
            assert all((ROOT / name).exists() for name in copied.split())


COMPOSE = shutil.which("docker-compose")


@pytest.mark.skipif(COMPOSE is None, reason="there is no docker-compose here")
@pytest.mark.parametrize("profile", [None, "scale", "gpu"])
def test_compose_takes_it(profile: str | None) -> None:
    profiles = [] if profile is None else ["--profile", profile]
    environment = {name: value for name, value in os.environ.items() if name not in _settings()}
    done = subprocess.run(
        [str(COMPOSE), *profiles, "config"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    expected = {name for name, service in SERVICES.items() if set(service.get("profiles", [profile])) == {profile}}
    assert expected <= services.keys()


def test_learners_send_their_reports() -> None:
    learners = [service for name, service in SERVICES.items() if name in ("learner", "learner-gpu", "left", "right")]
    assert len(learners) == 4
    assert not any("--no-upload" in service["command"] for service in learners)


def test_what_scale_needs_is_reached_by_replicas_alone() -> None:
    inside = {name for name, service in SERVICES.items() if service.get("networks") == ["store"]}
    assert inside == {"database", "object-store"}
    assert yaml.safe_load(TEXT)["networks"]["store"] == {"internal": True}
    assert not any("ports" in SERVICES[name] for name in inside)
    both = {name for name, service in SERVICES.items() if set(service.get("networks", [])) > {"store"}}
    assert both == {"replica-1", "replica-2"}
    # Each has a directory of its own, and keys are of both.
    mounted = [dict(volume.split(":")[:2][::-1] for volume in SERVICES[name]["volumes"]) for name in sorted(both)]
    assert mounted[0]["/memory"] != mounted[1]["/memory"]
    assert mounted[0]["/keys"] == mounted[1]["/keys"]
    assert SERVICES["balancer"]["environment"]["UPSTREAMS"].split() == [f"{name}:8765" for name in sorted(both)]


def _settings() -> dict[str, str]:
    return dict(re.findall(r"\$\{(\w+):?-([^}]*)\}", TEXT))


def _as_owner(file: Path, *directories: Path) -> list[str]:
    command = [sys.executable, *map(str, (AS_OWNER, file, *directories)), "--", "sh", "-c", "id -u; id -g; id -G"]
    found: str = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    return found.split()


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes somebody else")
def test_a_learner_is_who_has_the_checkout(tmp_path: Path) -> None:
    file, made, filled = tmp_path / "demo.toml", tmp_path / "runs", tmp_path / "data"
    file.touch()
    made.mkdir()
    (filled / "packages").mkdir(parents=True)
    (filled / "packages" / "art").touch()
    (filled / "link").symlink_to(file)
    os.chown(file, 4321, 4322)
    assert _as_owner(file, made, made / "none", filled) == ["4321", "4322", "4322"]
    given = [made, filled, *filled.rglob("*")]
    assert len(given) == 5
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in given} == {(4321, 4322)}
    # What the directories hold is theirs from then on.
    os.chown(filled / "packages" / "art", 0, 0)
    assert _as_owner(file, made, made / "none", filled) == ["4321", "4322", "4322"]
    assert (filled / "packages" / "art").stat().st_uid == 0
    # Not the machine's root.
    os.chown(file, 0, 0)
    if Path("/proc/self/uid_map").read_text().split()[:2] == ["0", "0"]:
        assert _as_owner(file, made) == ["1000", "1000", "1000"]
        assert (made.stat().st_uid, file.stat().st_uid) == (1000, 0)
