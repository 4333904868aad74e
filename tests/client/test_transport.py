"""What the client makes of a service that misbehaves."""

from __future__ import annotations

import email.utils
import json
import pickle
import time
from typing import Any

import httpx
import pytest

from client import (
    Buffer,
    MemoryClient,
    ProtocolError,
    Retries,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
    Timeout,
)
from client.errors import retry_after_seconds
from memory_format import (
    ERROR_CODES,
    MEDIA_TYPE,
    AccessError,
    BudgetError,
    BusyError,
    ConflictError,
    ExemplarMemoryError,
    ForbiddenError,
    FormatError,
    MissingLibraryError,
    NotFoundError,
    StorageError,
    UnauthenticatedError,
    encode_batch,
)
from memory_format.errors import error_class
from tests.client.samples import make_many
from tests.client.script import INFO, LOST, Answer, Clock, Script, client_of, problem, transport_of


@pytest.mark.parametrize("lost", [*LOST, httpx.ConnectTimeout("slow")], ids=lambda error: type(error).__name__)
def test_a_lost_connection_is_tried_again_and_waited_for(lost: Exception) -> None:
    script, clock = Script(lost, lost, lost, httpx.Response(200)), Clock()
    assert transport_of(script, clock).request("GET", "/x", safe=True).status_code == 200
    assert len(script.asked) == 4
    assert len(clock.waits) == 3
    for wait, longest in zip(clock.waits, (0.2, 0.4, 0.8), strict=True):
        assert longest / 2 <= wait <= longest
    assert len(set(clock.waits)) == 3, "the waits are drawn"


def test_tries_are_bounded() -> None:
    script, clock = Script(LOST[0]), Clock()
    with pytest.raises(ServiceUnavailableError) as caught:
        transport_of(script, clock).request("GET", "/x", safe=True)
    assert len(script.asked) == 8
    assert caught.value.details["tries"] == 8
    assert caught.value.__cause__ is LOST[0]
    assert "http://memory.test/x" in str(caught.value)


def test_waits_are_bounded() -> None:
    script, clock = Script(LOST[0]), Clock()
    retries = Retries(tries=30, first_wait=1, max_wait=3)
    with pytest.raises(ServiceUnavailableError):
        transport_of(script, clock, retries=retries, timeout=Timeout(total=20)).request("GET", "/x", safe=True)
    assert max(clock.waits) <= 3
    assert sum(clock.waits) < 20
    assert len(script.asked) == len(clock.waits) + 1 < 30


@pytest.mark.parametrize("status", [429, 503])
def test_come_back_later_is_honoured(status: int) -> None:
    busy = httpx.Response(status, headers={"Retry-After": "7"}, content=b"busy")
    script, clock = Script(busy, httpx.Response(200)), Clock()
    transport_of(script, clock).request("POST", "/x", safe=True)
    assert clock.waits == [7.0]


def test_come_back_too_late_is_an_error_at_once() -> None:
    busy = httpx.Response(503, headers={"Retry-After": "3600"}, content=b"busy")
    script, clock = Script(busy), Clock()
    with pytest.raises(ServiceUnavailableError) as caught:
        transport_of(script, clock).request("GET", "/x", safe=True)
    assert (caught.value.retry_after, caught.value.details["status"]) == (3600.0, 503)
    assert clock.waits == []


def test_retry_after_may_be_a_date() -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    for value, expected in ((later, 100), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("12", 12)):
        found = retry_after_seconds(httpx.Response(503, headers={"Retry-After": value}))
        assert found == pytest.approx(expected, abs=5)
    for value in ("", "soon", "-1", "٣"):
        assert retry_after_seconds(httpx.Response(503, headers=[(b"Retry-After", value.encode())])) is None


@pytest.mark.parametrize(
    "answer",
    [
        problem(500, "internal_error"),
        problem(422, "invalid_request"),
        problem(507, "budget_exceeded"),
        httpx.Response(502, content=b"bad gateway"),
        httpx.ReadTimeout("slow"),
        httpx.WriteTimeout("slow"),
        httpx.PoolTimeout("slow"),
    ],
    ids=lambda answer: answer.status_code if isinstance(answer, httpx.Response) else type(answer).__name__,
)
def test_nothing_else_is_tried_again(answer: Answer) -> None:
    script, clock = Script(answer), Clock()
    with pytest.raises((ExemplarMemoryError, ServiceError)):
        transport_of(script, clock).request("GET", "/x", safe=True)
    assert len(script.asked) == 1


@pytest.mark.parametrize("answer", [*LOST, problem(503, "storage_failed")])
def test_what_is_not_safe_is_never_tried_again(answer: Answer) -> None:
    script, clock = Script(answer), Clock()
    with pytest.raises((ServiceUnavailableError, StorageError)):
        transport_of(script, clock).request("POST", "/x", safe=False)
    assert len(script.asked) == 1


def test_busy_is_waited_for_also_by_what_is_not_safe() -> None:
    script, clock = Script(problem(429, "too_busy", headers={"Retry-After": "2"}), httpx.Response(200)), Clock()
    transport_of(script, clock).request("POST", "/x", safe=False)
    assert clock.waits == [2.0]

    script, clock = Script(problem(429, "too_busy", headers={"Retry-After": "1"}, limit=64)), Clock()
    with pytest.raises(BusyError) as caught:
        transport_of(script, clock).request("POST", "/x", safe=True)
    assert caught.value.code == "too_busy"
    assert caught.value.details == {"limit": 64, "tries": 8, "retry_after": 1.0}
    assert clock.waits == [1.0] * 7


def test_a_late_answer_is_a_timeout() -> None:
    with (
        pytest.raises(ServiceTimeoutError, match="60 s") as caught,
        client_of(Script(httpx.ReadTimeout("late"))) as memory,
    ):
        memory.buffers()
    assert isinstance(caught.value, TimeoutError)


def test_every_request_has_a_timeout() -> None:
    script = Script(httpx.Response(200, json={"buffers": []}))
    with MemoryClient("http://memory.test", timeout=Timeout(connect=1, read=2, total=3), transport=script) as memory:
        memory.buffers()
    (request,) = script.asked
    timeouts = request.extensions["timeout"]
    assert timeouts["connect"] == 1
    assert all(0 < timeouts[kind] <= 2 for kind in ("read", "write", "pool"))


def test_the_time_left_bounds_the_last_try() -> None:
    clock = Clock()
    script = Script(httpx.ConnectError("refused"))
    transport = transport_of(script, clock, timeout=Timeout(read=60, total=1), retries=Retries(tries=9, first_wait=0.4))
    with pytest.raises(ServiceUnavailableError):
        transport.request("GET", "/x", safe=True)
    assert script.asked[-1].extensions["timeout"]["read"] < 1


@pytest.mark.parametrize("numbers", [{"connect": 0}, {"read": -1}, {"total": 0}])
def test_timeouts_make_sense(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Timeout(**numbers)
    with pytest.raises(ValueError, match="at least 1"):
        Retries(tries=0)


CLASSES = [
    *(FormatError, BudgetError, NotFoundError, ConflictError),
    *(AccessError, BusyError, MissingLibraryError, StorageError),
    UnauthenticatedError,
    ForbiddenError,
]


@pytest.mark.parametrize("code", ERROR_CODES)
def test_every_code_becomes_its_exception(code: str) -> None:
    script = Script(problem(400, code, requested_bytes=7, free_bytes=3))
    with client_of(script) as memory, pytest.raises(ExemplarMemoryError) as caught:
        memory.buffers()
    assert type(caught.value) is error_class(code)
    assert type(caught.value) in CLASSES
    assert (caught.value.code, caught.value.message) == (code, "in words")
    assert caught.value.details == {"requested_bytes": 7, "free_bytes": 3}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, UnauthenticatedError),
        (403, AccessError),
        (404, NotFoundError),
        (409, ConflictError),
        (422, FormatError),
        (429, BusyError),
        (507, BudgetError),
        (500, StorageError),
    ],
)
def test_a_code_of_a_newer_service_goes_by_its_status(status: int, kind: type[Exception]) -> None:
    with client_of(Script(problem(status, "made_up_later"))) as memory, pytest.raises(kind) as caught:
        memory.buffers()
    assert caught.value.code == "made_up_later"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=b"<html>welcome</html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"buffers": {}}),
        httpx.Response(200, json={"buffers": [{"name": "x"}]}),
        httpx.Response(200, json={"buffers": [7]}),
        httpx.Response(301, headers={"Location": "http://elsewhere.test/"}),
        httpx.Response(500, content=b"Internal Server Error"),
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(400, json={"code": 7}),
        httpx.Response(400, json=["code"]),
    ],
)
def test_an_answer_that_is_none_is_a_protocol_error(answer: httpx.Response) -> None:
    with client_of(Script(answer)) as memory, pytest.raises(ProtocolError) as caught:
        memory.buffers()
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not Arrow",
        encode_batch(make_many(3))[:-40],
        encode_batch(make_many(3)).replace(b"learner-0", b"learner-\xff"),
        encode_batch(make_many(2)),
    ],
)
def test_a_sample_that_is_damaged_or_short_is_a_protocol_error(content: bytes) -> None:
    script = Script(httpx.Response(200, content=content, headers={"Content-Type": MEDIA_TYPE}))
    with client_of(script) as memory, pytest.raises(ProtocolError):
        Buffer(memory, "b").sample(3)


def test_a_deletion_that_went_through_before_the_answer_was_lost() -> None:
    gone = problem(404, "unknown_buffer")
    with client_of(Script(LOST[1], gone)) as memory:
        memory.delete_buffer("b")
    with client_of(Script(gone)) as memory, pytest.raises(NotFoundError):
        memory.delete_buffer("b")


def test_health_is_a_yes_or_a_no() -> None:
    with client_of(Script(httpx.Response(200, json={"status": "ok"}))) as memory:
        assert memory.health() is True
    script = Script(problem(503, "store_locked"))
    with client_of(script) as memory:
        assert memory.health() is False
    assert len(script.asked) == 1
    with client_of(Script(LOST[0])) as memory, pytest.raises(ServiceUnavailableError):
        memory.health()


def test_another_wire_version_is_refused_before_anything_is_sent() -> None:
    script = Script(httpx.Response(200, json={"buffers": []}), info={**INFO, "wire_version": "3"})
    with (
        client_of(script) as memory,
        pytest.raises(ProtocolError, match="wire version 3, this client 2") as caught,
    ):
        memory.create_buffer("b", budget_bytes=1)
    assert caught.value.details == {"client": "2", "service": "3"}
    assert script.asked == []


def test_what_is_no_memory_service_is_told_so() -> None:
    infos: list[Any] = [{}, {"hello": "world"}, [], {**INFO, "wire_version": 2}]
    for info in infos:
        with client_of(Script(httpx.Response(200), info=info)) as memory, pytest.raises(ProtocolError):
            memory.buffers()


def test_members_of_a_newer_service_are_passed_over() -> None:
    script = Script(httpx.Response(200, json={"buffers": [], "more": 1}), info={**INFO, "more": {}})
    with client_of(script) as memory:
        assert memory.buffers() == []


def test_a_clone_is_independent_and_a_pickle_is_a_clone() -> None:
    memory = MemoryClient("http://127.0.0.1:9/", timeout=7, retries=Retries(tries=1))
    copy, other = memory.clone(), pickle.loads(pickle.dumps(memory))
    memory.close()
    for client in (copy, other):
        assert client.url == "http://127.0.0.1:9"
        assert client.session.transport.timeout == Timeout(read=7)
        with pytest.raises(ServiceUnavailableError, match="refused"):
            client.health()
        client.close()


def test_closing_ends_the_waits_of_other_threads() -> None:
    memory = MemoryClient("http://memory.test", retries=Retries(first_wait=60, max_wait=60), transport=Script(LOST[0]))
    memory.stop()
    started = time.monotonic()
    memory.session.transport._sleep(60)
    assert time.monotonic() - started < 5
    with pytest.raises(ServiceUnavailableError, match="closed"):
        memory.buffers()
    memory.close()


def test_json_of_the_problem_is_read_whatever_its_media_type() -> None:
    content = json.dumps({"code": "unknown_buffer", "title": "only a title"}).encode()
    with (
        client_of(Script(httpx.Response(404, content=content))) as memory,
        pytest.raises(NotFoundError) as caught,
    ):
        memory.buffers()
    assert str(caught.value) == "only a title"
