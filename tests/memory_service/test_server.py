"""The command line and the process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from pydantic import ValidationError

from memory_service.cli import main
from memory_service.settings import Settings
from tests.memory_service.helpers import (
    Server,
    all_records,
    make_exemplar,
    push,
    put_buffer,
    reading,
    sample,
    segment_records,
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "memory_service", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_one_line_and_stops_cleanly(data: Path, number: int) -> None:
    with Server(data) as server:
        with server.client() as client:
            put_buffer(client)
            push(client, [make_exemplar()])
            # A connection that is kept open does not hold the process up.
            began = time.monotonic()
            status, out, err = server.stop(number)
        assert (status, out) == (0, "")
        assert time.monotonic() - began < 5
        assert "Traceback" not in err
    assert len(segment_records(data)) == 1
    # It sealed what was open.
    assert [path.suffix for path in (data / "segments").iterdir()] == [".zip"]


def test_a_store_serves_one_process(data: Path) -> None:
    with Server(data) as server:
        second = run("serve", "--data", str(data), "--port", "0")
        assert (second.returncode, second.stdout) == (2, "")
        assert f"held by another process (pid {server.process.pid})" in second.stderr
        assert "Traceback" not in second.stderr
        assert httpx.get(server.url + "/readyz").status_code == 200
        server.kill()
    # The lock dies with its holder.
    with Server(data) as server:
        assert server.stop()[0] == 0


def test_a_damaged_store_is_refused(data: Path) -> None:
    with Server(data) as server:
        with server.client() as client:
            put_buffer(client)
            push(client, [make_exemplar()])
        server.stop()
    (segment,) = (data / "segments").iterdir()
    content = segment.read_bytes()
    segment.write_bytes(content[:-1])
    refused = run("serve", "--data", str(data), "--port", "0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert segment.name.split(".")[0] in refused.stderr
    assert "memory-service verify" in refused.stderr
    assert "memory-service repair" in refused.stderr
    segment.write_bytes(content)
    with reading(data) as index:
        index.execute("UPDATE alembic_version SET version_num = '0099'")
        index.commit()
    refused = run("serve", "--data", str(data), "--port", "0")
    assert refused.returncode == 2
    assert "newer version" in refused.stderr
    (data / "index.sqlite").write_bytes(b"this is no database" * 1000)
    refused = run("serve", "--data", str(data), "--port", "0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "not a database" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_addresses_and_settings_that_will_not_do(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org"):
        assert main(["serve", "--data", str(data), "--host", host]) == 2
        assert "--trust-network" in capsys.readouterr().err
    assert not data.exists()
    for arguments, said in (
        ([], "a directory is needed, as --data DIR or as MEMORY_SERVICE_DATA"),
        (["--data", ""], "data (MEMORY_SERVICE_DATA): it is empty, and a path is needed"),
        (["--data", str(data), "--port", "70000"], "port (MEMORY_SERVICE_PORT): Input should be less"),
        (["--data", str(data), "--port", "70000"], "65535, got 70000"),
        (["--data", str(data), "--uds-only"], "bad settings: uds_only needs a socket"),
        (["--data", str(data), "--cache", "copies"], "cache is for copies of segments in an object store: name one"),
    ):
        assert main(["serve", *arguments]) == 2
        assert said in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--data", str(data), "--port", str(taken.getsockname()[1])]) == 2
    assert capsys.readouterr().err.startswith("memory-service: cannot listen")
    (data.parent / "file").write_text("x")
    assert main(["serve", "--data", str(data.parent / "file" / "below")]) == 2
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("name", [n for n, f in Settings.model_fields.items() if f.annotation is float])
@pytest.mark.parametrize("value", ["inf", "nan", "1e300"])
def test_no_time_is_infinite(name: str, value: str, data: Path) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({"data": data, name: value})


def test_a_misspelt_setting_is_not_passed_over(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Those of other commands are known.
    monkeypatch.setenv("MEMORY_SERVICE_FROM_INDEX", "x")
    monkeypatch.setenv("MEMORY_SERVICE_TOTAL_BUDGET", "1000")
    assert main(["serve", "--data", str(data)]) == 2
    assert "MEMORY_SERVICE_TOTAL_BUDGET in the environment is none" in capsys.readouterr().err
    assert not data.exists()


def test_the_network_can_be_trusted(data: Path) -> None:
    with Server(data, "--host", "0.0.0.0", "--trust-network") as server:
        assert httpx.get(server.url.replace("0.0.0.0", "127.0.0.1") + "/healthz").status_code == 200


def test_settings_come_from_the_environment_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_MAX_BODY_BYTES", "17")
    monkeypatch.setenv("MEMORY_SERVICE_PORT", "1")
    with Server(data) as server:
        response = httpx.post(
            server.url + "/v1/buffers/b/exemplars",
            content=b"x" * 18,
            headers={"Content-Type": "application/vnd.apache.arrow.stream"},
        )
        assert response.json()["limit"] == 17


def test_nothing_is_imported_that_a_service_does_not_need() -> None:
    unneeded = {
        "torch",
        "zarr",
        "client",
        "learner",
        "pandas",
        "psycopg",
        "obstore",
        "pyarrow.compute",
        "pyarrow.parquet",
    }
    code = f"import sys, memory_service.cli; print({unneeded} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at what the kernel has mapped")
def test_a_service_at_work_holds_no_pandas(data: Path) -> None:
    """43 MiB, which pyarrow brings in where it is installed, unless its columns are made of buffers."""
    pytest.importorskip("pandas")
    with Server(data) as server, server.client() as client:
        put_buffer(client)
        push(client, [make_exemplar(rank=rank, codec="webp") for rank in range(3)])
        assert len(sample(client, batch_size=2)) == 2
        assert len(all_records(client)) == 3
        exported = client.get(
            "/v1/buffers/b/export?png=true", headers={"Accept": "application/vnd.apache.arrow.stream"}
        )
        assert exported.status_code == 200
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libarrow" in mapped
    assert "/pandas/" not in mapped
    assert "/pyarrow/_compute" not in mapped


@pytest.mark.skipif("jemalloc" not in pa.supported_memory_backends(), reason="Arrow was built without it")
@pytest.mark.skipif(sys.platform != "linux", reason="Arrow's own choice elsewhere")
def test_arrow_has_one_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its streams take that of the time at which it was loaded."""
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    code = (
        "import atexit, sys; sys.argv = ['memory-service', '--help']\n"
        "from memory_service.command import main\n"
        "atexit.register(lambda: print(sys.modules['pyarrow'].default_memory_pool().backend_name))\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("jemalloc", "")


def test_every_module_is_imported_where_these_are_not_installed() -> None:
    code = """
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys(["torch", "zarr", "client", "learner"])
import memory_service
for module in pkgutil.walk_packages(memory_service.__path__, "memory_service."):
    # The one runs the service, the other runs in Alembic only.
    if not module.name.endswith((".__main__", ".env")):
        importlib.import_module(module.name)
print(sum(name.startswith("memory_service.") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
