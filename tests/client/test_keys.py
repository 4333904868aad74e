"""Keys in the client: shown to the service, and to nobody else."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path

import httpx
import pytest

from client import MemoryClient
from memory_format import ForbiddenError, UnauthenticatedError
from memory_service.store.keys import KeyFile
from memory_service.testing import ServiceProcess
from tests.client.samples import make

KEY = f"em_0123abcd_{43 * 'k'}"
VARIABLE = "EXEMPLAR_MEMORY_KEY"


def shown(memory: MemoryClient) -> str | None:
    """The Authorization of the first request, of which nothing comes."""
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(401, json={"code": "unauthenticated", "detail": "no"})

    connections = memory.session.transport.addresses.first.connections
    connections.injected = httpx.MockTransport(answer)
    with pytest.raises(UnauthenticatedError):
        memory.buffers()
    connections.injected = None
    return seen[0]


def test_a_key_is_given_or_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with MemoryClient("h:1") as none, MemoryClient("h:1", key=KEY) as given:
        assert (shown(none), shown(given)) == (None, f"Bearer {KEY}")
        monkeypatch.setenv(VARIABLE, f"em_{8 * '0'}_{43 * 'e'}")
        with MemoryClient("h:1") as known, MemoryClient("h:1", key="") as without, given.clone() as other:
            assert shown(known) == f"Bearer em_{8 * '0'}_{43 * 'e'}"
            assert (shown(without), shown(other)) == (None, f"Bearer {KEY}")
            with pickle.loads(pickle.dumps(without)) as again, pickle.loads(pickle.dumps(given)) as copied:
                assert (shown(again), shown(copied)) == (None, f"Bearer {KEY}")


@pytest.mark.parametrize("key", ["nonsense", KEY + "k", KEY + "\n", "Bearer " + KEY])
def test_what_is_no_key_is_refused_and_not_repeated(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="key is no key") as caught:
        MemoryClient("h:1", key=key)
    assert key not in str(caught.value)
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(ValueError, match=VARIABLE):
        MemoryClient("h:1")


@pytest.mark.parametrize("url", [f"http://{KEY}@h:1", f"http://user:{KEY}@h:1", f"h:1/?key={KEY}", f"unix:///{KEY}"])
def test_a_key_is_no_part_of_an_address(url: str) -> None:
    with pytest.raises(ValueError, match="does not belong in an address") as caught:
        MemoryClient(url)
    assert KEY[12:] not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://ann:secret@h:1", "ann:secret@h:1", "https://ann:secret@[::1]:x/", "h:2,secret@h:1"]
)
def test_a_password_is_no_part_of_an_address(url: str) -> None:
    with pytest.raises(ValueError, match="a user and password do not belong in an address") as caught:
        MemoryClient(url)
    assert "secret" not in str(caught.value)


def test_a_client_shows_its_key_to_the_service_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, path = tmp_path / "store", tmp_path / "socket"
    _, write = KeyFile(data).make("write", 0.0, buffers=["a*"], learner_id="left")
    with (
        caplog.at_level(logging.DEBUG),
        ServiceProcess(data, "--uds", str(path), "--access-log") as service,
        MemoryClient(service.url, key=write) as memory,
    ):
        buffer = memory.create_buffer("a", budget_bytes=10**6)
        assert buffer.push([make(0, learner_id="left")]).kept == 1
        with pytest.raises(ForbiddenError) as refused:
            memory.create_buffer("b", budget_bytes=10**6)
        with pytest.raises(ForbiddenError, match="'right'"):
            buffer.push([make(0, learner_id="right")])
        # Over the socket, where the service hands files over.
        assert len(buffer.sample(4, seed=1).class_id) == 4
        assert memory.session.local.offer is not None
        written = [repr(memory), repr(buffer), str(refused.value), repr(refused.value.details), caplog.text]
        written.append(service.stop().stderr)
    assert re.search(r"DRAW /v1/buffers/a/sample 200", written[-1])
    for text in written:
        assert write[12:] not in text
