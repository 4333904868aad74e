"""deploy/: what is there for several replicas of the service is what the service, a balancer and a cluster take."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from memory_service.cli import _parser
from memory_service.settings import Settings
from memory_service.store.keys import KEYS
from tests.conftest import Service

ROOT = Path(__file__).parents[1]
MANIFEST: dict[str, dict[str, Any]] = {
    found["kind"]: found for found in yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
}
COMPOSE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
CADDY = Path(sys.executable).with_name("caddy")


# Kubernetes


@pytest.mark.parametrize("kind", MANIFEST)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifest_is_what_a_cluster_takes(kind: str, version: str) -> None:
    kubernetes_validate.validate(MANIFEST[kind], version, strict=True)


def test_resources_have_units_that_a_cluster_reads() -> None:
    """The schema takes any string for a quantity (kubernetes-validate 1.37.0): a cluster refuses ``1GiB`` and a request
    over its limit."""
    units = {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    (container,) = MANIFEST["Deployment"]["spec"]["template"]["spec"]["containers"]
    amounts: dict[str, dict[str, float]] = {}
    for kind in ("requests", "limits"):
        for name, text in container["resources"][kind].items():
            found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", str(text))
            assert found, f"{kind}: {name} is {text!r}"
            amounts.setdefault(name, {})[kind] = float(found[1]) * units[found[2]]
    for of in amounts.values():
        assert 0 < of["requests"] <= of.get("limits", of["requests"])
    assert amounts["memory"]["limits"] >= 2**30


def test_what_belongs_together_is_called_alike() -> None:
    deployment = MANIFEST["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert MANIFEST["Service"]["spec"]["selector"] == labels
    assert MANIFEST["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": MANIFEST["Secret"]["metadata"]["name"]}}]
    volumes = {volume["name"] for volume in deployment["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert MANIFEST["Service"]["spec"]["ports"][0]["targetPort"] in ports


def _containers() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Command and environment of each container of the service."""
    (pod,) = MANIFEST["Deployment"]["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in pod["env"]} | MANIFEST["Secret"]["stringData"]
    replicas = {name: COMPOSE[name] for name in ("replica-1", "replica-2")}
    unset = {name: _as_unset(replica["environment"]) for name, replica in replicas.items()}
    found = {name: (replica["command"], unset[name]) for name, replica in replicas.items()}
    return {"Deployment": (pod["args"], given), **found}


def _as_unset(environment: dict[str, str]) -> dict[str, str]:
    """As Compose has it where no variable is set."""
    return {name: re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", value) for name, value in environment.items()}


@pytest.mark.parametrize(("command", "environment"), _containers().values(), ids=_containers())
def test_the_service_takes_its_settings(
    command: list[str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environment.items():
        assert variable.startswith("AWS_") or variable.removeprefix("MEMORY_SERVICE_").lower() in Settings.model_fields
        monkeypatch.setenv(variable, value)
    assert command[0] == "memory-service"
    given = vars(_parser().parse_args(command[1:]))
    fields = {key: value for key, value in given.items() if key in Settings.model_fields and value is not None}
    settings = Settings(**fields)
    assert settings.replicas
    assert settings.index is not None
    assert settings.segments is not None
    # All have the same keys, and a directory of their own.
    assert settings.keys not in (None, settings.data)


def test_keys_are_a_secret_of_the_name_that_the_service_looks_for() -> None:
    volumes = MANIFEST["Deployment"]["spec"]["template"]["spec"]["volumes"]
    (keys,) = (volume["secret"] for volume in volumes if volume["name"] == "keys")
    page = (ROOT / "docs/howto/kubernetes.md").read_text()
    assert f"secret generic {keys['secretName']} --from-file {KEYS}=keys/{KEYS}" in re.sub(r"\s*\\\n\s*", " ", page)


# The balancer


@contextmanager
def _balancer(*services: Service, log: Path) -> Iterator[str]:
    """Its address, once it answers."""
    ports = [service.url.rpartition(":")[2] for service in services]
    environment = {
        **os.environ,
        "UPSTREAMS": " ".join(f"127.0.0.1:{port}" for port in ports),
        "PORT": (port := _free_port()),
        "XDG_CONFIG_HOME": str(log.parent),
        "XDG_DATA_HOME": str(log.parent),
    }
    command = [str(CADDY), "run", "--config", str(ROOT / "deploy/Caddyfile"), "--adapter", "caddyfile"]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        _until(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def _until(holds: Callable[[], bool]) -> None:
    last = time.monotonic() + 30
    while time.monotonic() < last:
        try:
            if holds():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise AssertionError("not within 30 seconds")


def test_a_client_stays_with_a_replica_and_does_not_notice_that_it_ends(
    tmp_path: Path, start_service: Callable[..., Service]
) -> None:
    with ThreadPoolExecutor() as pool:
        services = list(pool.map(start_service, [tmp_path / "first", tmp_path / "second"]))
    for service in services:
        # By which they are told apart.
        httpx.put(f"{service.url}/v1/buffers/b", json={"budget_bytes": 1000 + services.index(service)})
    with _balancer(*services, log=tmp_path / "caddy.log") as url, httpx.Client(base_url=url) as client:

        def budgets(number: int) -> list[int]:
            answers = [client.get("/v1/buffers/b") for _ in range(number)]
            assert {answer.status_code for answer in answers} == {200}
            return [answer.json()["budget_bytes"] for answer in answers]

        (budget,) = set(budgets(8))
        ending = services[budget - 1000]
        ending.process.send_signal(signal.SIGTERM)
        budgets(20)
        # Not told again: at its very end a second signal ends it as any process.
        ending.process.communicate(timeout=15)
        assert ending.process.returncode == 0
        assert set(budgets(8)) == {2001 - budget}
