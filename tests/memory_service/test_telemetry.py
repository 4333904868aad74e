"""What is noted of requests and buffers: ids, log lines and figures for Prometheus."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from memory_format.api.terms import STORE_HEADER
from memory_service.http.app import create_app, open_store
from memory_service.http.metrics import StoreCollector
from memory_service.settings import Settings
from tests.memory_service.conftest import URL, running
from tests.memory_service.helpers import (
    ARROW,
    Server,
    all_records,
    assert_problem,
    make_exemplar,
    push,
    put_buffer,
    sample,
    stats_of,
    wait_until,
)

DASHBOARD = Path("deploy/grafana-dashboard.json")
LABELS = {"buffer", "kind", "outcome", "route", "method", "status", "le", "version"}


def figures(client: httpx.Client) -> dict[str, float]:
    """Every sample, as Prometheus writes it."""
    response = client.get("/metrics")
    assert response.status_code == 200
    found = {}
    for family in text_string_to_metric_families(response.text):
        for name, labels, value, *_ in family.samples:
            assert set(labels) <= LABELS
            found[name + "{" + ",".join(f'{key}="{labels[key]}"' for key in sorted(labels)) + "}"] = value
    return found


# Requests


def test_an_answer_repeats_the_id_of_its_request(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "run-7/step:3"}).headers["x-request-id"] == "run-7/step:3"
    # What cannot stand in a log is not repeated there, nor in an answer.
    for bad in ("", "two words", "x" * 129, 'quote"d'):
        given = client.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{16}", given)
    ids = {client.get("/healthz").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


def test_an_answer_says_of_which_store_it_is(data: Path) -> None:
    said = []
    for where in (data, data, data.parent / "another"):
        with running(where) as client:
            answers = [client.get(path) for path in ("/healthz", "/v1", "/v1/buffers/none", "/nothing")]
            said.append({answer.headers[STORE_HEADER] for answer in answers})
    assert said[0] == said[1] != said[2]
    assert all(re.fullmatch("[0-9a-f]{32}", store) for (store,) in said)


def test_refusals_and_failures_have_one_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"X-Request-ID": "mine"}
    with running(data) as client:
        refused = [
            client.get("/v1/buffers", headers={**given, "Host": "elsewhere.example"}),
            client.get("/v1/buffers/none", headers=given),
            client.put("/healthz", headers=given),
            client.post("/v1/buffers/none/sample", content=b"{", headers={**given, "Content-Type": "application/json"}),
        ]
        monkeypatch.setattr("memory_service.store.store.Store.page_of_buffers", lambda *_: 1 / 0)
        refused.append(client.get("/v1/buffers", headers=given))
    assert [answer.status_code for answer in refused] == [403, 404, 405, 404, 500]
    assert {answer.headers["x-request-id"] for answer in refused} == {"mine"}


def test_log_lines_are_objects_with_the_id(data: Path) -> None:
    with Server(data, "--access-log", "--log-format", "json") as server, server.client() as client:
        put_buffer(client)
        client.get("/v1/buffers/b", params={"none": "hidden"}, headers={"X-Request-ID": "mine"})
        lines = [json.loads(line) for line in server.stop().stderr.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    seen = [line for line in lines if line["logger"] == "memory_service.access"]
    assert [(line["method"], line["path"], line["status"]) for line in seen] == [
        ("PUT", "/v1/buffers/b", 201),
        ("GET", "/v1/buffers/b", 422),
    ]
    assert seen[1]["request_id"] == "mine"
    assert seen[0]["request_id"] != "mine"
    assert all(line["bytes"] > 0 and 0 < line["seconds"] < 60 for line in seen)
    assert "hidden" not in json.dumps(lines)


def test_a_failure_is_logged_with_its_traceback_and_id(data: Path, tmp_path: Path) -> None:
    with Server(data, "--log-format", "json") as server, server.client() as client:
        put_buffer(client)
        push(client, [make_exemplar()])
        # The segment's bytes are damaged under the service.
        (segment,) = (data / "segments").iterdir()
        segment.write_bytes(bytes(segment.stat().st_size))
        answer = client.get("/v1/buffers/b/exemplars/1", headers={"X-Request-ID": "mine"})
        assert_problem(answer, "corrupt_record")
        lines = [json.loads(line) for line in server.stop().stderr.splitlines()]
    (line,) = [line for line in lines if "corrupt_record" in line["message"]]
    assert (line["level"], line["request_id"]) == ("error", "mine")


def test_an_answer_that_its_client_does_not_wait_for_is_noted_as_such(data: Path) -> None:
    with Server(data, "--access-log", "--log-format", "json") as server, server.client() as client:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as gone:
            head = (
                "PUT /v1/buffers/b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99"
            )
            gone.sendall(f"{head}\r\n\r\n{{".encode())
            wait_until(lambda: figures(client)["exemplar_requests_in_progress{}"] == 2)
        name = 'exemplar_request_duration_seconds_count{method="PUT",route="/v1/buffers/{name}",status="499"}'
        wait_until(lambda: figures(client).get(name) == 1)
        lines = [json.loads(line) for line in server.stop().stderr.splitlines()]
    (line,) = [line for line in lines if line.get("method") == "PUT"]
    assert (line["status"], line["bytes"]) == (499, 0)


# Figures


def test_figures_are_those_of_the_buffer(client: httpx.Client) -> None:
    size = make_exemplar().charge
    put_buffer(client, budget_bytes=3 * size, eviction="fifo")
    push(client, [make_exemplar(rank=rank) for rank in range(4)])
    push(client, [make_exemplar(class_id=1)])
    sample(client, batch_size=5)
    client.put("/v1/buffers/b/snapshots/s")
    client.delete("/v1/buffers/b/exemplars", params={"class_id": 1})
    found, stats = figures(client), stats_of(client)

    def of(name: str, **labels: str) -> float:
        given = ",".join(f'{key}="{value}"' for key, value in sorted({"buffer": "b", **labels}.items()))
        return found[f"exemplar_{name}{{{given}}}"]

    kinds = {"live": "bytes_used", "pinned": "pinned_bytes", "dead": "dead_bytes", "held": "held_bytes"}
    assert {kind: of("buffer_bytes", kind=kind) for kind in kinds} == {kind: stats[kinds[kind]] for kind in kinds}
    for name, member in {
        "buffer_budget_bytes": "budget_bytes",
        "buffer_disk_bytes": "disk_bytes",
        "buffer_disk_limit_bytes": "disk_limit_bytes",
        "buffer_records": "num_records",
        "buffer_snapshots": "snapshots",
        "buffer_segments": "segments",
        "buffer_version": "version",
        "pushes_total": "pushes",
        "samples_total": "samples",
    }.items():
        assert of(name) == stats[member]
    assert of("pushed_records_total", outcome="kept") + of("pushed_records_total", outcome="rejected") == 5
    assert of("pushed_records_total", outcome="kept") - of("evicted_records_total") == 3
    assert of("sampled_records_total") == 5
    asked = 'method="POST",route="/v1/buffers/{name}/exemplars",status="200"'
    assert found[f"exemplar_request_duration_seconds_count{{{asked}}}"] == 2


def test_what_was_not_decided_is_not_counted(client: httpx.Client) -> None:
    put_buffer(client)
    batch = [make_exemplar()]
    push(client, batch, key="k")
    push(client, batch, key="k")
    client.post("/v1/buffers/b/exemplars", content=b"no batch", headers=ARROW)
    found = figures(client)
    assert found['exemplar_pushes_total{buffer="b"}'] == 1
    assert found['exemplar_pushed_records_total{buffer="b",outcome="kept"}'] == 1


def test_a_part_of_a_batch_counts_its_own_records(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, [make_exemplar(rank=rank) for rank in range(4)])
    for part in range(3):
        sample(client, batch_size=10, part=part, parts=3)
    assert figures(client)['exemplar_sampled_records_total{buffer="b"}'] == 10


def test_a_smaller_budget_counts_whom_it_evicts(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, [make_exemplar(rank=rank) for rank in range(4)])
    client.patch("/v1/buffers/b", json={"budget_bytes": 2 * make_exemplar().charge})
    assert figures(client)['exemplar_evicted_records_total{buffer="b"}'] == 2


def test_a_buffer_that_is_gone_has_no_figures(client: httpx.Client) -> None:
    put_buffer(client)
    assert any('buffer="b"' in name for name in figures(client))
    client.delete("/v1/buffers/b")
    assert not any('buffer="b"' in name for name in figures(client))


def test_addresses_that_clients_make_up_are_one_series(client: httpx.Client) -> None:
    for number in range(5):
        client.get(f"/none/{number}")
        client.request(f"MADEUP{number}", "/healthz")
    counts = {
        name: value
        for name, value in figures(client).items()
        if name.startswith("exemplar_request_duration_seconds_count")
    }
    assert not any("none/" in name or "MADEUP" in name for name in counts)
    assert counts['exemplar_request_duration_seconds_count{method="GET",route="none",status="404"}'] == 5


def test_figures_do_not_wait_for_a_push(data: Path) -> None:
    settings = Settings(data=data)
    with open_store(settings) as store, TestClient(create_app(settings, store), URL) as opened:
        client: Any = opened
        put_buffer(client)
        buffer = store.buffer("b")
        with buffer.turns.lock:
            waiting = threading.Thread(target=push, args=(client, [make_exemplar()]), daemon=True)
            waiting.start()
            wait_until(lambda: figures(client)["exemplar_requests_in_progress{}"] == 2)
            assert figures(client)['exemplar_pushes_total{buffer="b"}'] == 0
        waiting.join(30)
        assert figures(client)['exemplar_pushes_total{buffer="b"}'] == 1


def test_scrapes_share_their_work_and_hold_nobody(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect, go, begun = StoreCollector.collect, threading.Event(), []

    def slowly(self: StoreCollector) -> Iterator[Metric]:
        begun.append(1)
        assert go.wait(30)
        return collect(self)

    with open_store(Settings(data=data)) as store, TestClient(create_app(Settings(data=data), store), URL) as opened:
        client: Any = opened
        put_buffer(client)
        monkeypatch.setattr(StoreCollector, "collect", slowly)
        app: Any = opened.app
        with ThreadPoolExecutor(20) as pool:
            scrapes = [pool.submit(figures, client) for _ in range(20)]
            try:
                wait_until(lambda: begun and app.in_progress == 20)
                # Meanwhile pages of records and pushes are answered.
                push(client, [make_exemplar()])
                assert len(all_records(client)) == 1
            finally:
                go.set()
            seen = [scrape.result() for scrape in scrapes]
        # Who came after the first had begun shares the next.
        assert len(begun) == 2
        assert {of['exemplar_pushes_total{buffer="b"}'] for of in seen} == {1}


def test_names_follow_prometheus(client: httpx.Client) -> None:
    put_buffer(client)
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    families = list(read_openmetrics(response.text))  # type: ignore[no-untyped-call]
    assert len(families) > 15
    for family in families:
        assert re.fullmatch("(exemplar|process)_[a-z_]+", family.name)
        assert family.documentation
        # Base units, and no unit's parts.
        assert not re.search("_(ms|us|milliseconds|kb|mb|mib|percent)(_|$)", family.name)
        for name, *_ in family.samples:
            assert name.endswith("_total") == (family.type == "counter")


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("asked", ["version=abc", "version=1.x", "version=", "version=0.0.4;escaping=none", "=", ""])
def test_whatever_format_is_asked_for_there_is_an_answer(client: httpx.Client, kind: str, asked: str) -> None:
    response = client.get("/metrics", headers={"Accept": f"{kind};{asked}"})
    assert response.status_code == 200
    assert "exemplar_build_info" in response.text


@pytest.mark.parametrize(
    ("accept", "version"),
    [
        ("text/plain, application/openmetrics-text;q=0", None),
        ("application/openmetrics-text;version=1.0.0;q=0.1, text/plain;version=0.0.4;q=0.9", None),
        ("application/openmetrics-text;q=0.5, */*", None),
        ("application/openmetrics-text;q=0", None),
        ("text/plain;q=0.5, application/openmetrics-text;version=1.0.0", "1.0.0"),
        ('Application/OpenMetrics-Text; Version="1.0.0"', "1.0.0"),
        # What Prometheus 2.40 sends.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "1.0.0",
        ),
        ("application/openmetrics-text;version=0.0.1, application/openmetrics-text;version=1.0.0;q=0.9", "1.0.0"),
    ],
)
def test_the_format_that_is_liked_best_is_given(client: httpx.Client, accept: str, version: str | None) -> None:
    given = client.get("/metrics", headers={"Accept": accept}).headers["content-type"]
    assert given.startswith("text/plain" if version is None else f"application/openmetrics-text; version={version}")


def test_the_dashboard_shows_figures_that_there_are(client: httpx.Client) -> None:
    put_buffer(client)
    known = {name.partition("{")[0] for name in figures(client)}
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = list(_expressions(dashboard))
    assert len(expressions) >= 10
    for expression in expressions:
        used = set(re.findall("(?:exemplar|process)_[a-z_]+", expression))
        assert used
        assert used <= known


def _expressions(part: Any) -> Any:
    if isinstance(part, dict):
        if "expr" in part:
            yield part["expr"]
        part = list(part.values())
    if isinstance(part, list):
        for member in part:
            yield from _expressions(member)
