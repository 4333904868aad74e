"""A service with several addresses: what goes on at another one when one is gone, and what does not."""

from __future__ import annotations

import pickle
import random
import threading
import time
from collections.abc import Iterator, Sequence

import httpx
import pytest

from client import (
    Buffer,
    MemoryClient,
    ProtocolError,
    Retries,
    ServiceTimeoutError,
    ServiceUnavailableError,
    Timeout,
)
from client._addresses import AWAY_SECONDS
from client._transport import Transport
from memory_format import BusyError, StorageError
from memory_format.api.terms import STORE_HEADER
from tests.client.link import Link
from tests.client.samples import make_many
from tests.client.script import INFO, LOST, Answer, Clock, problem
from tests.conftest import Service

A, B = "http://a.test", "http://b.test"


class Hosts(httpx.BaseTransport):
    """Answers each host's requests from its own list, the last for ever."""

    def __init__(self, **answers: Sequence[Answer]) -> None:
        self.answers = {name: [*given] for name, given in answers.items()}
        self.asked: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host[0]
        self.asked.append(name)
        answers = self.answers[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


class First(random.Random):
    """Begins with the first address."""

    def randrange(self, *_: object) -> int:
        return 0


def transport_of(hosts: Hosts, clock: Clock, **settings: Retries | Timeout) -> Transport:
    timeout, retries = settings.get("timeout", Timeout()), settings.get("retries", Retries())
    assert isinstance(timeout, Timeout)
    assert isinstance(retries, Retries)
    return Transport(
        [A, B], timeout=timeout, retries=retries, transport=hosts, sleep=clock.sleep, clock=clock, rng=First(0)
    )


OK = httpx.Response(200)


@pytest.mark.parametrize(
    "answer", [*LOST, httpx.ReadTimeout("slow"), problem(503, "replica_behind"), problem(429, "too_busy")]
)
def test_what_one_does_not_answer_the_next_is_asked_at_once(answer: Answer) -> None:
    hosts, clock = Hosts(a=[answer], b=[OK]), Clock()
    transport = transport_of(hosts, clock)
    for _ in range(2):
        assert transport.request("POST", "/x", safe=True).status_code == 200
    # And it is stayed with.
    assert (hosts.asked, clock.waits) == (["a", "b", "b"], [])


def test_one_that_is_gone_is_left_alone_for_a_while() -> None:
    hosts, clock = Hosts(a=[LOST[0], OK], b=[OK, problem(503, "storage_failed")]), Clock()
    transport = transport_of(hosts, clock, retries=Retries(tries=2))
    transport.request("GET", "/x", safe=True)
    with pytest.raises(StorageError):
        transport.request("GET", "/x", safe=True)
    assert hosts.asked == ["a", "b", "b", "b"]
    clock.now += AWAY_SECONDS
    assert transport.request("GET", "/x", safe=True).status_code == 200
    assert hosts.asked[4:] == ["b", "a"]


@pytest.mark.parametrize("answer", [LOST[1], LOST[2], httpx.ReadTimeout("slow"), problem(503, "storage_failed")])
def test_what_may_have_been_done_and_is_not_safe_goes_nowhere_else(answer: Answer) -> None:
    hosts = Hosts(a=[answer], b=[OK])
    with pytest.raises((ServiceUnavailableError, ServiceTimeoutError, StorageError)):
        transport_of(hosts, Clock()).request("POST", "/x", safe=False)
    assert hosts.asked == ["a"]


@pytest.mark.parametrize("answer", [LOST[0], httpx.ConnectTimeout("slow"), problem(429, "too_busy")])
def test_what_was_never_done_goes_on_elsewhere(answer: Answer) -> None:
    hosts = Hosts(a=[answer], b=[OK])
    assert transport_of(hosts, Clock()).request("POST", "/x", safe=False).status_code == 200
    assert hosts.asked == ["a", "b"]


def test_tries_and_waits_are_those_of_one_address() -> None:
    hosts, clock = Hosts(a=[LOST[0]], b=[LOST[1]]), Clock()
    with pytest.raises(ServiceUnavailableError, match=r"b\.test/x: reset \(and before: GET http://a\.test/x") as lost:
        transport_of(hosts, clock).request("GET", "/x", safe=True)
    assert hosts.asked == ["a", "b"] * 8
    assert len(clock.waits) == 7
    assert lost.value.details["tries"] == 16
    # The shorter of what both ask for.
    busy = [problem(429, "too_busy", headers={"Retry-After": str(seconds)}) for seconds in (9, 2)]
    hosts, clock = Hosts(a=busy[:1], b=busy[1:]), Clock()
    with pytest.raises(BusyError):
        transport_of(hosts, clock, retries=Retries(tries=2)).request("GET", "/x", safe=True)
    assert clock.waits == [2.0]


def test_one_deadline_holds_for_all() -> None:
    clock = Clock()

    class Slow(Hosts):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            clock.now += 7
            return super().handle_request(request)

    hosts = Slow(a=[httpx.ReadTimeout("slow")], b=[httpx.ReadTimeout("slow")])
    with pytest.raises(ServiceTimeoutError, match="not done within 5 s"):
        transport_of(hosts, clock, timeout=Timeout(total=5)).request("GET", "/x", safe=True)
    assert hosts.asked == ["a"]


def test_one_with_another_store_is_an_error_and_no_answer() -> None:
    here, elsewhere = (
        httpx.Response(200, headers={STORE_HEADER: name}, content=b"x") for name in ("here", "elsewhere")
    )
    hosts, clock = Hosts(a=[here, LOST[0], here], b=[here, elsewhere]), Clock()
    transport = transport_of(hosts, clock)
    for _ in range(2):
        assert transport.request("POST", "/x", safe=True).headers[STORE_HEADER] == "here"
    taken: list[bytes] = []
    with pytest.raises(ProtocolError, match=r"b\.test and http://a\.test have different stores"):
        transport.request("POST", "/x", safe=True, receive=lambda _, pieces: taken.extend(pieces))
    assert (hosts.asked, clock.waits, taken) == (["a", "a", "b", "b"], [], [])


def test_a_client_takes_them_in_a_list_or_with_commas() -> None:
    hosts = Hosts(a=[LOST[0]], b=[httpx.Response(200, json=INFO)])
    for given in ([A, B], (A, B), f"{A}, {B}"):
        with MemoryClient(given, transport=hosts) as memory:
            assert memory.info().wire_version == INFO["wire_version"]
            assert memory.url == memory.clone().url == f"{A},{B}"
    assert pickle.loads(pickle.dumps(MemoryClient([A, B]))).url == f"{A},{B}"
    for nothing in ([], [A, A], f"{A},", ["unix://x", A]):
        with pytest.raises(ValueError, match="address"):
            MemoryClient(nothing)


def test_clients_share_out_the_addresses() -> None:
    begun = {Transport([A, B], timeout=Timeout(), retries=Retries()).addresses.in_turn()[0].url for _ in range(60)}
    assert begun == {A, B}


# Over real connections


@pytest.fixture
def links(service: Service) -> Iterator[tuple[Link, Link]]:
    port = httpx.URL(service.url).port
    assert port is not None
    found = Link(port), Link(port)
    yield found
    for link in found:
        link.close()


def test_pushes_and_draws_go_on_while_ways_break(buffer: Buffer, links: tuple[Link, Link]) -> None:
    """One of two ways is there at any moment. Nothing is lost, nothing is there twice, and each draw is the one that is
    asked for."""
    done = threading.Event()

    def meddle() -> None:
        rng = random.Random(1)
        while not done.is_set():
            link = rng.choice(links)
            link.cut()
            time.sleep(rng.uniform(0, 0.02))
            link.mend()
            time.sleep(rng.uniform(0, 0.02))

    pushed: list[int | None] = []
    draws = []
    thread = threading.Thread(target=meddle)
    with MemoryClient([link.url for link in links], retries=Retries(first_wait=0.01)) as memory:
        through = Buffer(memory, buffer.name)
        thread.start()
        try:
            for number in range(20):
                pushed += through.push(make_many(3, 3 * number)).exemplar_ids
                draws.append(through.sample(4, seed=1, step=number, pixels=False))
        finally:
            done.set()
            thread.join()
    assert all(link.num_connections > 1 for link in links), "nothing was broken"
    held = [record.exemplar_id for record in buffer.records()]
    assert len(held) == len(set(held)) == 60
    assert set(held) == set(pushed)
    assert [draw.version for draw in draws] == list(range(1, 21))
    again = buffer.sample(4, seed=1, step=19, pixels=False)
    assert again.exemplar_id.tolist() == draws[-1].exemplar_id.tolist()


def test_one_that_stands_still_holds_a_push_up_once(buffer: Buffer, links: tuple[Link, Link]) -> None:
    timeout = Timeout(connect=0.3, read=0.3, total=60)
    with MemoryClient([link.url for link in links], timeout=timeout) as memory:
        through = Buffer(memory, buffer.name)
        assert through.push(make_many(1)).kept == 1
        (used,) = (link for link in links if link.url == memory.session.transport.addresses.in_turn()[0].url)
        assert used.num_connections
        used.stand_still()
        # Whether the first has done it nobody knows; its key says that it is once all the same.
        assert through.push(make_many(2, 1)).kept == 2
        used.go_on()
        assert through.push(make_many(1, 3)).kept == 1
    assert buffer.stats().num_records == 4
