"""Everything at once against a real service: at every poll, all four figures are within their limits.

Writers, snapshots, forks, exports and imports, readers that stall, and PATCHes that shrink. The service stands still
while its files are counted, so that a poll is one moment. ``SOAK_SECONDS`` says for how long; ``make nightly`` takes
minutes.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from memory_format import MEDIA_TYPE, Record, encode_batch
from memory_service.store.admin.verify import verify
from tests.descriptors import open_links
from tests.memory_service.helpers import Server, all_records, make_exemplar

SECONDS = float(os.environ.get("SOAK_SECONDS", "5"))
MIB = 2**20
POLICIES = {"fifo": "fifo", "balanced": "class_balanced", "drawn": "reservoir", "best": "lowest_score"}
"""Buffer -> policy; two writers each."""
LARGE = {"budget_bytes": 2 * MIB, "disk_limit_bytes": 5 * MIB}
SMALL = {"budget_bytes": MIB, "disk_limit_bytes": 5 * MIB // 2}

pytestmark = pytest.mark.timeout(SECONDS + 120)


class Soak:
    """What goes on, and what is known of it.

    Args:
        server: a service without buffers.
    """

    def __init__(self, server: Server, data: Path) -> None:
        self.server = server
        self.data = data
        self.done = threading.Event()
        self.counts: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.highest: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.kept: dict[str, set[int]] = {name: set() for name in POLICIES}
        self.evicted: dict[str, set[int]] = {name: set() for name in POLICIES}
        self._limits: dict[str, int] = {}
        self._paused = threading.Lock()

    # What the disk may hold

    @contextmanager
    def room(self, name: str, num_bytes: int) -> Iterator[None]:
        """While a buffer is there, or comes or goes."""
        with self._lock:
            self._limits[name] = num_bytes
        try:
            yield
        finally:
            with self._lock:
                del self._limits[name]

    def allow(self, name: str, num_bytes: int) -> None:
        with self._lock:
            self._limits[name] = num_bytes

    def allowed(self) -> int:
        with self._lock:
            return sum(self._limits.values())

    # What goes on

    def run(self, work: Callable[[httpx.Client, random.Random], object], number: int) -> threading.Thread:
        def go() -> None:
            rng = random.Random(number)
            try:
                with self.server.client() as client:
                    while not self.done.is_set():
                        work(client, rng)
            except BaseException as error:
                self.errors.append(error)
                self.done.set()

        thread = threading.Thread(target=go, name=f"{getattr(work, '__name__', 'work')}-{number}")
        thread.start()
        return thread

    def count(self, what: str, answer: httpx.Response, *refusals: str) -> bool:
        """Note an answer; returns whether it was a good one."""
        if answer.is_success:
            self.counts[what] += 1
            return True
        code = answer.json()["code"]
        assert code in (*refusals, "too_busy"), answer.text
        self.counts[f"{what}: {code}"] += 1
        return False

    def write(self, client: httpx.Client, rng: random.Random, name: str) -> None:
        answer = client.post(
            f"/v1/buffers/{name}/exemplars", content=encode_batch(records(rng)), headers={"Content-Type": MEDIA_TYPE}
        )
        if self.count("push", answer, "disk_limit_exceeded"):
            said = answer.json()
            with self._lock:
                self.kept[name].update(id_ for id_ in said["exemplar_ids"] if id_ is not None)
                self.evicted[name].update(said["evicted"])

    def snapshot(self, client: httpx.Client, rng: random.Random) -> None:
        name, snapshot = rng.choice([*POLICIES]), f"s{rng.randrange(10**6)}"
        self.count("snapshot", client.put(f"/v1/buffers/{name}/snapshots/{snapshot}"), "disk_limit_exceeded")
        if rng.random() < 0.5:
            self.count("drop", client.delete(f"/v1/buffers/{name}/snapshots/{snapshot}"), "unknown_snapshot")
        time.sleep(0.05)

    def fork(self, client: httpx.Client, rng: random.Random) -> None:
        name, fork = rng.choice([*POLICIES]), f"f{rng.randrange(10**6)}"
        limit = rng.choice([LARGE, SMALL])["disk_limit_bytes"]
        with self.room(fork, limit):
            wanted = {"name": fork, "disk_limit_bytes": limit}
            refusals = ("disk_limit_exceeded", "budget_exceeded")
            if self.count("fork", client.post(f"/v1/buffers/{name}/forks", json=wanted), *refusals):
                answer = client.post(
                    f"/v1/buffers/{fork}/exemplars",
                    content=encode_batch(records(rng)),
                    headers={"Content-Type": MEDIA_TYPE},
                )
                self.count("push to a fork", answer, "disk_limit_exceeded")
                self.count("delete", client.delete(f"/v1/buffers/{fork}"))

    def move(self, client: httpx.Client, rng: random.Random) -> None:
        """Export and import."""
        name, copy = rng.choice([*POLICIES]), f"i{rng.randrange(10**6)}"
        try:
            answer = client.get(f"/v1/buffers/{name}/export")
        except httpx.RemoteProtocolError:
            # A push needed the room.
            self.counts["export cut short"] += 1
            return
        self.count("export", answer)
        with self.room(copy, LARGE["disk_limit_bytes"]):
            head = {"Content-Type": "application/zip"}
            if self.count("import", client.post(f"/v1/buffers/{copy}/import", content=answer.content, headers=head)):
                self.count("delete", client.delete(f"/v1/buffers/{copy}"))

    def stall(self, client: httpx.Client, rng: random.Random) -> None:
        """Ask for much and take nothing of it."""
        address = urlsplit(self.server.url)
        with ExitStack() as stack:
            for _ in range(6):
                name = rng.choice([*POLICIES])
                body = b'{"batch_size": 400}' if rng.random() < 0.6 else b""
                request = f"POST /v1/buffers/{name}/sample" if body else f"GET /v1/buffers/{name}/export"
                reader = stack.enter_context(socket.socket())
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                reader.connect((address.hostname, address.port))
                head = f"{request} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n"
                reader.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            self.done.wait(rng.choice([0.3, 1.0, 3.0]))
        self.counts["stalled"] += 6

    def shrink(self, client: httpx.Client, rng: random.Random) -> None:
        """And grow again."""
        name = rng.choice([*POLICIES])
        for settings in (SMALL, LARGE):
            if settings is LARGE:
                self.allow(name, LARGE["disk_limit_bytes"])
            answer = client.patch(f"/v1/buffers/{name}", json=settings)
            if self.count("shrink" if settings is SMALL else "grow", answer, "disk_limit_exceeded"):
                self.allow(name, settings["disk_limit_bytes"])
                with self._lock:
                    self.evicted[name].update(answer.json()["evicted"])
            self.done.wait(0.2)

    # What is looked at

    def poll(self, client: httpx.Client, rng: random.Random) -> None:
        for name in POLICIES:
            stats = client.get(f"/v1/buffers/{name}/stats").json()
            assert stats["bytes_used"] <= stats["budget_bytes"], stats
            assert stats["disk_bytes"] <= stats["disk_limit_bytes"], stats
            for figure in ("held_bytes", "pinned_bytes"):
                self.highest[figure] = max(self.highest[figure], stats[figure])
        before = self.allowed()
        with self.stopped():
            there, deleted = self.on_disk()
        allowed = max(before, self.allowed())
        assert there + deleted <= allowed, (there, deleted, allowed)
        self.highest["deleted but open"] = max(self.highest["deleted but open"], deleted)
        self.highest["of what is allowed, %"] = max(
            self.highest["of what is allowed, %"], 100 * (there + deleted) // allowed
        )
        self.counts["polls"] += 1
        time.sleep(0.05)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The service stands still."""
        pid = self.server.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.001)
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def on_disk(self) -> tuple[int, int]:
        """Bytes of all files of the store, and of removed ones that are still open. Imports on their way in are not
        counted."""
        there = sum(
            path.stat().st_size for path in self.data.rglob("*") if path.is_file() and path.parent.name != "incoming"
        )
        removed: dict[tuple[int, int], int] = {}
        for entry, link in open_links(self.server.process.pid):
            with suppress(OSError):
                if link.endswith(" (deleted)"):
                    found = entry.stat()
                    removed[found.st_dev, found.st_ino] = found.st_size
        return there, sum(removed.values())


def records(rng: random.Random) -> list[Record]:
    return [
        make_exemplar(rng.randrange(6), rng.randrange(100), seed=1, pad=rng.randrange(5_000, 60_000))
        for _ in range(rng.randrange(1, 8))
    ]


def test_all_four_figures_are_within_their_limits_at_every_poll(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_LEASE_SECONDS", "2")
    with Server(data) as server, server.client() as client:
        soak = Soak(server, data)
        for name, policy in POLICIES.items():
            soak.allow(name, LARGE["disk_limit_bytes"])
            settings: dict[str, Any] = {"eviction": policy, "retain_snapshots": 2, **LARGE}
            assert client.put(f"/v1/buffers/{name}", json=settings).status_code == 201
        threads = []
        for number, name in enumerate([*POLICIES, *POLICIES]):
            threads.append(soak.run(partial(soak.write, name=name), number))
        works = (soak.snapshot, soak.fork, soak.move, soak.stall, soak.shrink, soak.poll)
        threads += [soak.run(work, 100 + number) for number, work in enumerate(works)]
        soak.done.wait(SECONDS)
        soak.done.set()
        for thread in threads:
            thread.join()
        print(dict(soak.counts), dict(soak.highest))
        for error in soak.errors:
            print(server.stop())
            raise error
        for what in ("push", "snapshot", "fork", "export", "import", "stalled", "shrink", "grow", "polls"):
            assert soak.counts[what], (what, soak.counts)
        # What was acknowledged and not evicted is there, and nothing else is.
        for name in POLICIES:
            held = {record.exemplar_id for record in all_records(client, buffer=name)}
            assert held == soak.kept[name] - soak.evicted[name]
        status, _, log = server.stop()
        assert status == 0
        assert "Traceback" not in log
    report = verify(data)
    assert report.sound, report.problems
    assert set(report.buffers) == set(POLICIES)
