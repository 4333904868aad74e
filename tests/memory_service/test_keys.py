"""Keys: who is let in, to what, and what is never shown."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import BusyError, ForbiddenError, StorageError, UnauthenticatedError, encode_batch, lending
from memory_format.api.terms import ROLES, Role
from memory_service.cli import main
from memory_service.http.access import Access, Need, Places, Rates, Shown
from memory_service.http.routes.common import Router
from memory_service.logs import BackgroundHandler
from memory_service.store.keys import KeyFile
from tests.memory_service.conftest import running
from tests.memory_service.helpers import ARROW, Server, make_exemplar, push, put_buffer, wait_until
from tests.memory_service.test_fit import undecodable
from tests.memory_service.test_local import Reader, said

NOW = 1_800_000_000.0
Operation = tuple[str, str, dict[str, Any]]


def made(data: Path, role: Role = "admin", **options: Any) -> str:
    """A new key of a store."""
    return KeyFile(data).make(role, NOW, **options)[1]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


@pytest.fixture
def admin(data: Path) -> str:
    return made(data)


@pytest.fixture
def shared(data: Path, admin: str) -> Iterator[httpx.Client]:
    """A service that has a key and a buffer, ``b``; its client shows none."""
    with running(data) as client:
        client.headers.update(bearer(admin))
        put_buffer(client)
        push(client, [make_exemplar(0, rank, learner_id=name) for rank, name in enumerate(("left", "right"))])
        del client.headers["authorization"]
        yield client


def operations_of(client: httpx.Client) -> list[Operation]:
    """Method, address (of what is not there) and what the OpenAPI document says of each operation."""
    paths = client.get("/openapi.json").json()["paths"]
    return [
        (method, re.sub(r"\{exemplar_id\}", "9", re.sub(r"\{\w+\}", "b", path)), operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]


def test_every_route_asks_for_a_key_and_for_a_role_that_is_great_enough(shared: httpx.Client, data: Path) -> None:
    keys = {role: made(data, role) for role in ROLES}
    elsewhere = made(data, "admin", buffers=["c*"])
    open_to_all = set()
    for method, path, operation in operations_of(shared):
        where = f"{method} {path}"
        if not operation["security"]:
            open_to_all.add(path)
            assert shared.request(method, path).status_code == 200, where
            continue
        ((scheme, (needed,)),) = operation["security"][0].items()
        assert scheme == "key"
        assert {"401", "403"} <= operation["responses"].keys(), where
        refused = shared.request(method, path)
        assert code_of(refused) == (401, "unauthenticated"), where
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        for role in ROLES[: ROLES.index(needed)]:
            answer = shared.request(method, path, headers=bearer(keys[role]))
            assert code_of(answer) == (403, "forbidden"), where
            assert role in answer.json()["detail"]
        if "/buffers/b" in path or "all buffers" in operation["description"]:
            answer = shared.request(method, path, headers=bearer(elsewhere))
            assert code_of(answer) == (403, "forbidden"), where
        # What keys there are may not be known.
        assert {"429", "503"} <= operation["responses"].keys(), where
    assert open_to_all == {"/healthz", "/readyz"}
    # All of them were refused before anything was done.
    assert shared.get("/v1/buffers/b/stats", headers=bearer(keys["read"])).json()["num_records"] == 2


def test_a_key_that_is_for_it_lets_in(shared: httpx.Client, data: Path) -> None:
    read, write = (bearer(made(data, role, buffers=["b", "c-*"])) for role in ROLES[:2])
    assert shared.get("/v1/buffers/b", headers=read).status_code == 200
    assert shared.head("/v1/buffers/b", headers=read).status_code == 200
    assert shared.head("/v1/buffers/b").status_code == 401
    assert shared.post("/v1/buffers/b/sample", json={"batch_size": 2}, headers=read).status_code == 200
    assert shared.put("/v1/buffers/c-1", json={"budget_bytes": 10**5}, headers=write).status_code == 201
    assert shared.post("/v1/buffers/b/forks", json={"name": "c-2"}, headers=write).status_code == 201
    assert code_of(shared.post("/v1/buffers/b/forks", json={"name": "d"}, headers=write)) == (403, "forbidden")
    # What a key is not for it does not see; whether it is there is not told.
    names = [buffer["name"] for buffer in shared.get("/v1/buffers", headers=read).json()["buffers"]]
    assert names == ["b", "c-1", "c-2"]
    narrow = bearer(made(data, "read", buffers=["c-?"]))
    page = shared.get("/v1/buffers?limit=1", headers=narrow).json()
    assert ([buffer["name"] for buffer in page["buffers"]], page["next_cursor"]) == (["c-1"], "c-1")
    unknown, there = (shared.get(f"/v1/buffers/{name}", headers=narrow) for name in ("x", "b"))
    assert code_of(unknown) == code_of(there) == (403, "forbidden")


def test_a_learners_key_pushes_and_changes_its_records_alone(shared: httpx.Client, data: Path) -> None:
    left = bearer(made(data, "write", learner_id="left"))
    address = "/v1/buffers/b/exemplars"

    def pushed(*learners: str) -> httpx.Response:
        batch = encode_batch([make_exemplar(1, rank, learner_id=name) for rank, name in enumerate(learners)])
        return shared.post(address, content=batch, headers={**ARROW, **left})

    refused = pushed("left", "right")
    assert code_of(refused) == (403, "forbidden")
    assert refused.json()["index"] == 1
    assert pushed("left").status_code == 200
    for response in (
        shared.delete(f"{address}/2", headers=left),
        shared.delete(f"{address}?class_id=0", headers=left),
        shared.patch(address, json={"exemplar_ids": [1, 2], "scores": [1, 2]}, headers=left),
    ):
        assert code_of(response) == (403, "forbidden")
        assert "'right'" in response.json()["detail"]
    assert shared.patch(address, json={"exemplar_ids": [1, 99], "scores": [1, 2]}, headers=left).json()["updated"] == 1
    assert shared.delete(f"{address}?class_id=0&learner_id=left", headers=left).json()["deleted"] == [1]
    assert shared.get("/v1/buffers/b/stats", headers=left).json()["learners"] == {"left": 1, "right": 1}


def test_who_made_a_buffer_may_change_and_delete_it_and_nobody_elses(
    shared: httpx.Client, data: Path, admin: str
) -> None:
    mine, other = (bearer(made(data, "write", buffers=["*"])) for _ in range(2))
    left, left_again = (bearer(made(data, "write", learner_id="left")) for _ in range(2))
    batch = encode_batch([make_exemplar(learner_id="right")])

    def asked(buffer: str, key: dict[str, str]) -> list[int]:
        """What a change, and the deletion of a snapshot and of all are answered."""
        address = f"/v1/buffers/{buffer}"
        shared.put(f"{address}/snapshots/s", headers=bearer(admin))
        return [
            shared.patch(address, json={"description": "new"}, headers=key).status_code,
            shared.delete(f"{address}/snapshots/s", headers=key).status_code,
            shared.delete(address, headers=key).status_code,
        ]

    def put(name: str, key: dict[str, str]) -> None:
        assert shared.put(f"/v1/buffers/{name}", json={"budget_bytes": 10**5}, headers=key).status_code == 201

    for name, maker, others in (("m", mine, (other, left)), ("l", left, (mine, other))):
        put(name, maker)
        for key in others:
            assert asked(name, key) == [403, 403, 403]
    # From before there were keys, or made with another role: an admin's.
    assert asked("b", mine) == [403, 403, 403]
    # Forks are their maker's, imports whoever's brings them.
    assert shared.post("/v1/buffers/b/forks", json={"name": "f"}, headers=mine).status_code == 201
    assert (asked("f", other), asked("f", mine)) == ([403] * 3, [200, 204, 204])
    exported = shared.get("/v1/buffers/m/export", headers=mine).content
    zipped = {"Content-Type": "application/zip", **bearer(admin)}
    assert shared.post("/v1/buffers/i/import", content=exported, headers=zipped).status_code == 201
    assert asked("i", mine) == [403, 403, 403]
    # A buffer that others have come to share is no learner's own any more, held records and snapshots alike.
    address = "/v1/buffers/l"
    assert shared.post(f"{address}/exemplars", content=batch, headers={**ARROW, **mine}).status_code == 200
    assert asked("l", left) == [403, 403, 403]
    for key, may_change in ((left, False), (bearer(admin), True)):
        page = shared.get("/buffers/l/summary", headers={"Accept": "text/html", **key}).text
        assert ("Delete this buffer" in page) == may_change
    assert shared.put(f"{address}/snapshots/kept", headers=mine).status_code == 201
    assert shared.delete(f"{address}/exemplars?learner_id=right", headers=mine).status_code == 200
    assert asked("l", left) == [403, 403, 403]
    for snapshot in ("kept", "s"):
        shared.delete(f"{address}/snapshots/{snapshot}", headers=bearer(admin))
    # The key that takes the place of a learner's has what was that's; and who may only read changes nothing.
    assert asked("l", bearer(made(data, "read", learner_id="left"))) == [403, 403, 403]
    assert asked("l", left_again) == [200, 204, 204]
    assert asked("m", mine) == [200, 204, 204]


def test_who_made_a_buffer_is_known_after_a_restart_and_a_repair(data: Path) -> None:
    key, other = (bearer(made(data, "write")) for _ in range(2))
    with running(data) as client:
        client.headers.update(key)
        put_buffer(client)
        push(client, [make_exemplar()])
    (data / "index.sqlite").unlink()
    assert main(["repair", str(data)]) == 0
    with running(data) as client:
        assert client.delete("/v1/buffers/b", headers=other).status_code == 403
        shown = "Delete this buffer"
        page = {"Accept": "text/html"}
        assert shown not in client.get("/buffers/b/summary", headers=other | page).text
        assert shown in client.get("/buffers/b/summary", headers=key | page).text
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert client.post("/buffers/b/delete", content=b"name=b", headers=other | form).status_code == 403
        assert client.post("/buffers/b/delete", content=b"name=b", headers=key | form).status_code == 200
        assert client.get("/v1/buffers", headers=key).json()["buffers"] == []


def test_what_a_trusted_key_brings_is_not_decoded(shared: httpx.Client, data: Path, admin: str) -> None:
    assert main(["keys", "make", "--data", str(data), "--role", "read", "--trusted"]) == 2
    trusted, plain = (bearer(made(data, "write", learner_id="left", trusted=wanted)) for wanted in (True, False))
    damaged = encode_batch([replace(undecodable(7), learner_id="left")])
    assert shared.put("/v1/buffers/t", json={"budget_bytes": 10**6}, headers=bearer(admin)).status_code == 201
    address, zipped = "/v1/buffers/t/exemplars", {"Content-Type": "application/zip"}
    refused = shared.post(address, content=damaged, headers={**ARROW, **plain})
    assert code_of(refused) == (422, "invalid_payload")
    assert shared.post(address, content=damaged, headers={**ARROW, **trusted}).json()["kept"] == 1
    # Trusted is who pushes, and nobody else: neither an export nor who brings it.
    exported = shared.get("/v1/buffers/t/export", headers=plain).content
    refused = shared.post("/v1/buffers/c/import", content=exported, headers={**zipped, **bearer(admin)})
    assert code_of(refused) == (422, "invalid_payload")
    keeper = bearer(made(data, "admin", trusted=True))
    assert shared.post("/v1/buffers/c/import", content=exported, headers={**zipped, **keeper}).status_code == 201
    # It may do no more than without: records are still looked at, and other learners' refused.
    other = encode_batch([undecodable(8)])
    assert code_of(shared.post(address, content=other, headers={**ARROW, **trusted})) == (403, "forbidden")
    malformed = shared.post(address, content=damaged[:-40], headers={**ARROW, **trusted})
    assert code_of(malformed) == (422, "invalid_batch")


def test_a_running_service_takes_keys_as_they_are_made_and_revoked(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(data) as client:
        # Nobody is asked until there is one.
        assert client.get("/v1", headers=bearer("anything")).status_code == 200
        assert main(["keys", "make", "--data", str(data), "--role", "write", "--days", "1", "--note", "of Ada"]) == 0
        out, err = capsys.readouterr()
        first = out.strip()
        id_ = first[:11]
        assert (id_ in err, first in err) == (True, False)
        assert client.get("/v1").status_code == 401
        assert client.get("/v1", headers=bearer(first)).status_code == 200
        second = made(data, "read")
        assert [client.get("/v1", headers=bearer(key)).status_code for key in (first, second)] == [200, 200]
        assert main(["keys", "revoke", "--data", str(data), id_]) == 0
        revoked = client.get("/v1", headers=bearer(first))
        assert (code_of(revoked), "revoked" in revoked.json()["detail"]) == ((401, "unauthenticated"), True)
        assert client.get("/v1", headers=bearer(second)).status_code == 200
        # To revoke the last one opens nothing.
        assert main(["keys", "revoke", "--data", str(data), second[3:11]]) == 0
        assert client.get("/v1").status_code == 401
        # Nor does a file that is gone, or one that cannot be read.
        content = (data / "keys.json").read_bytes()
        assert stat.S_IMODE((data / "keys.json").stat().st_mode) == 0o600
        (data / "keys.json").unlink()
        assert client.get("/v1", headers=bearer(second)).status_code == 401
        (data / "keys.json").write_bytes(content[:-5])
        assert code_of(client.get("/v1")) == (503, "storage_failed")
        assert client.get("/healthz").status_code == 200
        (data / "keys.json").write_bytes(content)
    capsys.readouterr()
    assert main(["keys", "list", "--json", "--data", str(data)]) == 0
    listed = capsys.readouterr().out
    assert [json.loads(line)["id"] for line in listed.splitlines()] == [id_, second[:11]]
    assert main(["keys", "list", "--data", str(data)]) == 0
    listed += capsys.readouterr().out
    assert "of Ada" in listed
    for secret in (first[12:], second[12:], "sha256"):
        assert secret not in listed
    assert first[12:].encode() not in content


@pytest.mark.parametrize(
    "words",
    [
        ["make", "--buffers", "Upper"],
        ["make", "--learner", "with space"],
        ["make", "--days", "0"],
        ["make", "--days", "nan"],
        ["make", "--note", "x" * 201],
        ["revoke", "em_00000000"],
        ["revoke", "em_00000000_secret"],
    ],
)
def test_what_will_not_do_makes_and_revokes_nothing(
    words: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", *words, "--data", str(data)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith("memory-service: "), "secret" in err) == ("", True, False)
    assert not (data / "keys.json").exists() or json.loads((data / "keys.json").read_text())["keys"] == []


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer x",
        "Bearer em_00000000_" + 43 * "A",
        "Basic dXNlcjpwYXNz",
        "em_00000000_" + 43 * "A",
        "Bearer \xe9",
    ],
)
def test_what_is_no_key_of_the_store_is_refused_alike(header: str, data: Path, admin: str) -> None:
    with running(data) as client:
        wrong = client.get("/v1", headers=[(b"Authorization", header.encode("latin-1"))])
        # One whose id is there is not told from one whose id is not.
        near = client.get("/v1", headers=bearer(admin[:12] + 43 * "A"))
    assert code_of(wrong) == code_of(near) == (401, "unauthenticated")
    if header.startswith("Bearer"):
        assert wrong.json() == near.json()


def test_a_key_ends_when_it_expires(data: Path) -> None:
    now = NOW
    keys = KeyFile(data)
    _, given = keys.make("read", NOW, expires_at=NOW + 60)
    access = Access(keys, 10, 1, lambda: now)
    scope = {"headers": [(b"authorization", f"Bearer {given}".encode())]}
    found = access.admit(scope, Need("read"), None).key
    assert found is not None
    assert found.role == "read"
    assert keys.any_good(now)
    now += 60
    assert not keys.any_good(now)
    with pytest.raises(Exception, match=r"em_\w{8} has expired at 2027-01-15 08:01 UTC"):
        access.admit(scope, Need("read"), None)


def test_wrong_keys_are_answered_at_a_rate_and_good_ones_always(data: Path, admin: str) -> None:
    with running(data) as client:
        wrong = [client.get("/v1", headers=bearer(f"em_00000000_{43 * 'A'}")) for _ in range(12)]
        assert [response.status_code for response in wrong] == [401] * 10 + [429] * 2
        assert int(wrong[-1].headers["Retry-After"]) > 0
        assert client.get("/v1", headers=bearer(admin)).status_code == 200
        # Who has none is no guesser.
        assert client.get("/v1").status_code == 401


def test_rates_are_of_each_and_are_bounded() -> None:
    now = 0.0
    rates = Rates(2, 0.5, most=2, clock=lambda: now)
    assert [rates.take("a") for _ in range(3)] == [0, 0, 2.0]
    assert rates.take("b") == 0
    now = 2.0
    assert [rates.take("a") for _ in range(2)] == [0, 2.0]
    assert [rates.take(name) for name in "cd"] == [0, 0]
    assert len(rates._until) == 2


def test_a_key_asks_so_often_a_second_and_no_other_waits_for_it(data: Path, admin: str) -> None:
    other = made(data)
    with running(data, key_requests=3) as client:
        answers = [client.get("/v1", headers=bearer(admin)) for _ in range(5)]
        assert [answer.status_code for answer in answers[:3]] == [200] * 3
        assert code_of(answers[-1]) == (429, "rate_exceeded")
        assert (answers[-1].json()["limit"], answers[-1].headers["Retry-After"]) == (3, "1")
        assert client.get("/v1", headers=bearer(other)).status_code == 200


class Line:
    """A connection that may be idle."""

    def __init__(self, idle: bool = False) -> None:
        self.idle = idle
        self.shown: Shown | None = None

    def give_way(self) -> bool:
        return self.idle


def test_a_key_has_so_many_connections_and_idle_ones_make_room() -> None:
    places = Places(2)
    busy, idle, other = Line(), Line(idle=True), Line()
    for line in (busy, idle, busy):
        places.take("a", line)
    places.take("b", other)
    # In the place of the idle one; then nothing gives way.
    third = Line()
    places.take("a", third)
    with pytest.raises(BusyError, match="2 connections of the key em_a") as refused:
        places.take("a", Line())
    assert refused.value.code == "connections_exceeded"
    # Of who goes, and of who shows another key, the place is free.
    places.leave(busy)
    places.take("a", Line())
    places.take("b", third)
    places.take("a", Line())
    for line in (idle, busy, Line()):
        places.leave(line)


def test_a_connection_that_showed_a_good_key_is_let_in_by_no_other(data: Path) -> None:
    good, other = (made(data, "read", buffers=["b"], expires_at=NOW + seconds) for seconds in (10, 20))
    keys, line, now = KeyFile(data), Line(), NOW
    access = Access(keys, 100, 2, clock=lambda: now)

    def check(given: str | None, buffer: str = "b") -> None:
        access.check(given, "read", buffer, line)

    check(good)
    for given in (None, good[:-1], good[:-1] + "\udcff", good[:12] + other[12:], "em_"):
        with pytest.raises(UnauthenticatedError, match="asks for a key" if given is None else "none of this service's"):
            check(given)
    with pytest.raises(ForbiddenError, match="not for 'c'"):
        check(good, "c")
    now = NOW + 11
    with pytest.raises(UnauthenticatedError, match="has expired"):
        check(good)
    keys.revoke(good[3:11], NOW)
    with pytest.raises(UnauthenticatedError, match="was revoked"):
        check(good)


def test_a_good_key_is_good_while_another_thread_reads_a_changed_file(
    data: Path, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, look, read = KeyFile(data), os.stat, KeyFile._read
    assert (keys.current() or {}).keys() == {admin[3:11]}
    reading, go_on = threading.Event(), threading.Event()

    def slow(self: KeyFile) -> Any:
        reading.set()
        assert go_on.wait(10)
        return read(self)

    found: list[Any] = []
    other = threading.Thread(target=lambda: found.append(keys.current()))

    def overtaken(path: Any) -> os.stat_result:
        """The file as it is, and then another thread that finds it changed."""
        seen = look(path)
        monkeypatch.setattr(os, "stat", look)
        KeyFile(data).make("read", NOW)
        monkeypatch.setattr(KeyFile, "_read", slow)
        other.start()
        assert reading.wait(10)
        return seen

    monkeypatch.setattr(os, "stat", overtaken)
    try:
        assert (keys.current() or {}).keys() == {admin[3:11]}
    finally:
        go_on.set()
        other.join()
    assert len(found[0]) == 2


def test_connections_are_counted_by_key(data: Path, admin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_KEY_CONNECTIONS", "1")
    other = made(data)
    with Server(data) as server, ExitStack() as stack:
        httpx.put(f"{server.url}/v1/buffers/b", json={"budget_bytes": 10**5}, headers=bearer(admin)).raise_for_status()
        address = "127.0.0.1", int(server.url.rpartition(":")[2])
        first, second, third = (stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(3))

        def ask(line: socket.socket, key: str, body: bytes) -> None:
            fields = (
                "Host: localhost",
                "Content-Type: application/json",
                "Content-Length: 9",
                f"Authorization: Bearer {key}",
            )
            head = "\r\n".join(("POST /v1/buffers/b/sample HTTP/1.1", *fields, "", ""))
            line.sendall(head.encode() + body)

        # Its body is on its way.
        ask(first, admin, b"{")
        wait_until(lambda: httpx.get(server.url + "/v1", headers=bearer(admin)).status_code == 429)
        ask(second, admin, b"{       }")
        # To its end: it is closed.
        refused = b"".join(iter(lambda: second.recv(65536), b""))
        assert b" 429 " in refused
        assert b"connections_exceeded" in refused
        ask(third, other, b"{       }")
        assert b" 422 " in third.recv(65536)
        first.sendall(b"       }")
        assert b" 422 " in first.recv(65536)
        # It waits for nothing now, and makes room.
        wait_until(lambda: httpx.get(server.url + "/v1", headers=bearer(admin)).status_code == 200)
        assert b"".join(iter(lambda: first.recv(65536), b"")).count(b"HTTP/1.1") == 0


def test_a_key_is_in_no_log_and_no_answer(data: Path, admin: str, caplog: pytest.LogCaptureFixture) -> None:
    wrong = f"em_00000000_{43 * 'B'}"
    with caplog.at_level(logging.DEBUG), running(data, access_log=True) as client:
        answers = [client.get("/v1/buffers", headers=bearer(key)) for key in (admin, wrong)]
        answers.append(client.get(f"/v1/buffers?key={admin}", headers=bearer(admin)))
        # Nor where it stands in the place of a name.
        for address in (f"/{admin}", f"/v1/buffers/{admin}", f"/v1/buffers?cursor={admin}", f"/v1/runs/{admin}/"):
            answers += [client.get(address, headers=bearer(admin)), client.put(address, headers=bearer(admin))]
    assert [answer.status_code for answer in answers[:3]] == [200, 401, 422]
    assert {answer.status_code for answer in answers[3:]} <= {200, 308, 404, 405, 415, 422}
    # Whose request it was is in the log.
    (line,) = [record for record in caplog.records if getattr(record, "fields", {}).get("status") == 200]
    assert line.fields["key"] == admin[:11]  # type: ignore[attr-defined]
    with (data / "log").open("wb") as file:
        handler = BackgroundHandler(file.fileno(), "json")
        for record in caplog.records:
            if record.name.startswith(("memory_service", "uvicorn")):
                handler.handle(record)
        handler.close()
    written = (data / "log").read_text()
    assert f'"path": "/v1/buffers/{admin[:11]}_..."' in written
    for text in (written, *(answer.text + str(answer.headers) for answer in answers)):
        assert admin[12:] not in text
        assert wrong[12:] not in text


def test_a_service_that_others_reach_has_a_key(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, expired = KeyFile(data).make("admin", 0.0, expires_at=1.0)
    assert main(["serve", "--data", str(data), "--host", "0.0.0.0"]) == 2
    said_ = capsys.readouterr().err
    (command,) = re.findall(r"`memory-service (keys make .*)`", said_)
    assert (expired in said_, "--trust-network" in said_) == (False, True)
    assert main(command.split()) == 0
    key = capsys.readouterr().out.strip()
    with Server(data, "--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert [httpx.get(f"{url}/v1", headers=shown).status_code for shown in ({}, bearer(key))] == [401, 200]
        assert key[12:] not in server.stop()[2]


def test_draws_over_the_socket_obey_keys(data: Path, admin: str) -> None:
    path = data.parent / "socket"
    narrow = made(data, "read", buffers=["c"])
    with Server(data, "--uds", str(path)) as server, server.client() as client, Reader(path) as reader:
        client.headers.update(bearer(admin))
        put_buffer(client)
        push(client, [make_exemplar()])
        assert said(reader.begin())[0] == lending.HELO
        for key, words in ((None, "asks for a key"), (narrow, "is for the buffers c"), (admin, "")):
            if key is not None:
                reader.socket.sendall(lending.REQUEST.pack(lending.AUTH, len(key)) + key.encode())
            answer, descriptors = reader.draw(batch_size=1)
            assert (len(descriptors), answer[:4]) == ((0, lending.HTTP) if words else (1, lending.ROWS))
            assert not words or words in said(answer)[1]
        # It is asked at each draw.
        reader.done()
        assert main(["keys", "revoke", "--data", str(data), admin[:11]]) == 0
        assert reader.draw(batch_size=1)[0][:4] == lending.HTTP


def test_backups_take_no_keys_along(data: Path, admin: str, capsys: pytest.CaptureFixture[str]) -> None:
    with running(data) as client:
        client.headers.update(bearer(admin))
        put_buffer(client)
        push(client, [make_exemplar()])
        assert b"keys.json" not in client.get("/v1/backup").content
    assert main(["backup", str(data), str(data.parent / "copy")]) == 0
    assert not (data.parent / "copy" / "keys.json").exists()
    capsys.readouterr()
    # And they are no foreign files to who checks a store.
    assert main(["verify", "--json", str(data)]) == 0
    assert json.loads(capsys.readouterr().out)["foreign"] == []


def test_keys_that_were_never_read_let_nobody_in(data: Path) -> None:
    data.mkdir()
    (data / "keys.json").write_text('{"format": 2, "keys": []}')
    keys = KeyFile(data)
    with pytest.raises(StorageError, match="nobody is let in"):
        keys.current()
    (data / "keys.json").unlink()
    assert keys.current() == {}
    with pytest.raises(Exception, match="asks for a key"):
        Access(keys, 1, 1).admit({"headers": []}, Need("read"), None)


def test_routes_say_who_may_call_them() -> None:
    with pytest.raises(TypeError, match="who may call it"):
        Router().get("/x")(lambda: None)
