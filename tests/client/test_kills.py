"""kill -9 of a trainer, the service or both, at random moments: what is trained on is what an undisturbed run has.

KILL_ROUNDS says how often; `make nightly` asks for many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from client import Buffer, MemoryClient
from tests.client.samples import make_many
from tests.client.trainer import GLOBAL_BATCH, SEED, Seen, Task
from tests.conftest import Service

ROUNDS = int(os.environ.get("KILL_ROUNDS", "6"))
MODES = ("loop", "DataLoader", "StatefulDataLoader")
MOST_WAIT = 0.7
"""Seconds from a start, or from a run's next batch, to a kill."""

pytestmark = pytest.mark.timeout(120 + 10 * ROUNDS)


class Trainers:
    """Starts trainers by forking a process that has torch loaded: `python -m tests.client.trainer`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.client.trainer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"},
            )
        self.pids: list[int] = []
        self.started: set[int] = set()

    def start(self, task: Task) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(task)) + "\n")
        self.process.stdin.flush()
        self.pids = self._answer()
        self.started |= {*self.pids}

    def statuses(self) -> list[int]:
        """Once all have ended."""
        self.pids = []
        return self._answer()

    def _answer(self) -> list[int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End all, workers that are left over as well."""
        for pid in self.started:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class World:
    """A service and a trainer that are killed and go on."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        (folder / "run").mkdir()
        self.service = Service(folder / "store")
        self.port = self.service.url.rpartition(":")[2]
        with MemoryClient(self.service.url) as memory:
            memory.create_buffer("replayed", budget_bytes=1_000_000).push(make_many(40))
        self.trainers = Trainers(folder / "trainers.log")
        self.lives = 0

    def task(self, mode: str, *, until: int = 10**9, ranks: int = 1) -> Task:
        self.lives += 1
        meeting = str(self.folder / f"meeting-{self.lives}") if ranks > 1 else ""
        return Task(mode, self.service.url, "replayed", str(self.folder / "run"), until, ranks, meeting)

    def kill_service(self) -> None:
        self.service.kill()
        self.service = Service(self.folder / "store", "--port", self.port)

    def kill_trainer(self) -> list[int]:
        """One of its processes first, and its own workers with it or not."""
        pids = self.trainers.pids
        kill = self.random.choice((os.kill, os.killpg))
        for pid in self.random.sample(pids, len(pids)):
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
        return self.trainers.statuses()

    def seen(self) -> list[Seen]:
        files = sorted((self.folder / "run").glob("seen-*.jsonl"))
        return [Seen(**json.loads(line)) for file in files for line in file.read_bytes().splitlines()]

    def wait(self) -> None:
        """For a random time: every third kill falls into a start, the others into what comes after a batch."""
        if self.random.random() > 1 / 3:
            begun = self.num_bytes()
            deadline = time.monotonic() + 30
            while self.num_bytes() == begun and time.monotonic() < deadline:
                time.sleep(0.01)
        time.sleep(self.random.uniform(0, MOST_WAIT))

    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in (self.folder / "run").glob("seen-*.jsonl"))

    def close(self) -> None:
        self.trainers.close()
        self.service.kill()


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path, zlib.crc32(request.node.name.encode()))
    yield made
    made.close()


def undisturbed(buffer: Buffer, count: int) -> list[tuple[list[int], list[int]]]:
    """Ids and checksums of pixels of each step, drawn one by one."""
    found = []
    for step in range(count):
        batch = buffer.sample(GLOBAL_BATCH, seed=SEED, step=step)
        kept = zip(batch.patches, batch.patch_valid, strict=True)
        found.append((batch.exemplar_id.tolist(), [zlib.crc32(patches[valid].tobytes()) for patches, valid in kept]))
    return found


def assert_undisturbed(world: World, count: int) -> None:
    """Each batch, however often a run went back to its checkpoint, is the one that belongs there."""
    with MemoryClient(world.service.url) as memory:
        expected = undisturbed(memory.buffer("replayed"), count)
    parts: dict[int, set[tuple[int, int]]] = {}
    for seen in world.seen():
        ids, pixels = expected[seen.count]
        share = slice(GLOBAL_BATCH * seen.rank // seen.ranks, GLOBAL_BATCH * (seen.rank + 1) // seen.ranks)
        assert (seen.step, seen.ids, seen.pixels) == (seen.count, ids[share], pixels[share]), seen
        parts.setdefault(seen.count, set()).add((seen.rank, seen.ranks))
    assert sorted(parts) == list(range(count))
    for count, found in parts.items():
        assert any({(rank, ranks) for rank in range(ranks)} <= found for _, ranks in found), (count, found)


def go_on(world: World, mode: str, rounds: int, ranks: list[int]) -> int:
    """Rounds of kills, and then to an end; returns how many batches there were."""
    begun = time.monotonic()
    for number in range(rounds):
        if not world.trainers.pids:
            world.trainers.start(world.task(mode, ranks=ranks[number % len(ranks)]))
        world.wait()
        victims = world.random.choice(("trainer", "trainer", "service", "both"))
        if victims == "service":
            # It trains on while the service comes back.
            world.kill_service()
            continue
        statuses = world.kill_trainer()
        if victims == "both":
            world.kill_service()
        # A rank that lost another one may end by itself.
        expected = {-signal.SIGKILL} if len(statuses) == 1 else {-signal.SIGKILL, 1}
        assert {*statuses} <= expected, world.trainers.log.read_text()
    if world.trainers.pids:
        world.kill_trainer()
    until = max((seen.count for seen in world.seen()), default=0) + 30
    world.trainers.start(world.task(mode, until=until, ranks=ranks[rounds % len(ranks)]))
    statuses = world.trainers.statuses()
    assert {*statuses} == {0}, world.trainers.log.read_text()
    seconds = time.monotonic() - begun
    print(f"{mode}: {rounds} rounds in {seconds:.0f} s, {world.lives} lives, {until} batches", flush=True)
    return until


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_is_killed_goes_on(world: World, mode: str) -> None:
    rounds = -(-ROUNDS // len(MODES))
    assert_undisturbed(world, go_on(world, mode, rounds, [1]))


def test_ranks_that_are_killed_go_on_whatever_their_number(world: World) -> None:
    assert_undisturbed(world, go_on(world, "loop", -(-ROUNDS // 2), [2, 1, 4]))


def test_a_batch_that_is_another_one_would_be_told(world: World) -> None:
    """The judge itself."""
    until = go_on(world, "loop", 0, [1])
    seen = world.folder / "run" / "seen-0.jsonl"
    lines: list[Any] = [json.loads(line) for line in seen.read_text().splitlines()]
    lines[3]["pixels"][0] ^= 1
    seen.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(AssertionError, match="count=3"):
        assert_undisturbed(world, until)
    del lines[3]
    seen.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(AssertionError):
        assert_undisturbed(world, until)
