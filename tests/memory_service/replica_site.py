"""Two replicas over one database and one object store, and what can be amiss there."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from memory_format import StorageError
from memory_service.http.app import open_store
from memory_service.settings import Settings
from memory_service.store.shared import SharedStore
from tests.links import Link
from tests.memory_service.forked import ForkedService
from tests.memory_service.replica_model import insist
from tests.network import Wire
from tests.objects import ObjectStore
from tests.postgres import PostgresServer

SEGMENT_BYTES = 256 * 1024
"""So that segments are large enough to be put, and the disk limit makes pushes compact."""
TOTAL_BUDGET_BYTES = 200 * 2**20
"""A round's buffers have it, and two forks of the larger one, or more of the smaller."""
LEARNER_BYTES = 9 * 2**19
"""What fills the smaller buffer has it, and a fork of that."""


class Site:
    """Two replicas, each with its link to the database, and one in this process that sweeps."""

    def __init__(
        self,
        directory: Path,
        postgres: PostgresServer,
        links: Sequence[Link | Wire],
        store: ObjectStore,
        stack: ExitStack,
    ) -> None:
        self.directory, self.postgres, self.links, self.store, self.stack = directory, postgres, links, store, stack
        self.index, self.segments = postgres.new_schema(), store.new_prefix()
        self.crashed = False
        """Whether the database ever was."""
        self.replicas = [self._start(number) for number in range(2)]
        keeper = Settings(
            data=directory / "keeper",
            index=self.index,
            segments=self.segments,
            replicas=True,
            total_budget_bytes=TOTAL_BUDGET_BYTES,
            learner_bytes=LEARNER_BYTES,
        )
        opened = stack.enter_context(open_store(keeper))
        assert isinstance(opened, SharedStore)
        self.keeper = opened
        self.urls = [replica.url for replica in self.replicas]

    def _start(self, number: int) -> ForkedService:
        environment = {
            "MEMORY_SERVICE_INDEX": self.index.replace(self.postgres.socket, quote(self.links[number].host)),
            "MEMORY_SERVICE_SEGMENTS": self.segments,
            "MEMORY_SERVICE_SEGMENT_BYTES": str(SEGMENT_BYTES),
            "MEMORY_SERVICE_TOTAL_BUDGET_BYTES": str(TOTAL_BUDGET_BYTES),
            "MEMORY_SERVICE_LEARNER_BYTES": str(LEARNER_BYTES),
        }
        made = ForkedService(
            self.directory / f"replica-{number}",
            "--replicas",
            environment=environment,
            log=self.log(number),
            # Of a machine that does much else.
            start_seconds=240,
        )
        return self.stack.enter_context(made)

    def log(self, number: int) -> Path:
        return self.directory / f"replica-{number}.log"

    def start_again(self, number: int) -> None:
        self.replicas[number] = self._start(number)
        self.urls[number] = self.replicas[number].url

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        schema = self.index.rpartition("%3D")[2]
        return self.postgres.execute(f"SET search_path = {schema}; {statement}")

    def is_left_by_crash(self, file: str) -> bool:
        """Whether a file of the database's is of no table: it removes none that was being made when it ended."""
        number = re.split("[._]", file.rpartition("/")[2])[0]
        return self.crashed and not self.rows(f"SELECT FROM pg_class WHERE pg_relation_filenode(oid) = {number}")

    def stems(self, condition: str) -> set[str]:
        return {str(stem) for (stem,) in self.rows(f"SELECT stem FROM {condition}")}

    def objects(self) -> set[str]:
        """Stems of all segments in the bucket, whether or not anybody knows them."""
        keys = self.store.keys(self.segments) - {"store.json"}
        return {key.removeprefix("segments/").removesuffix(".zarr.zip") for key in keys}

    def sweep(self, *, also_read: bool) -> None:
        """As when the deadlines of uploads, and of reading on, have passed."""
        self.rows(f"UPDATE intents SET upload_until = 0 WHERE {also_read} OR NOT leaving")
        self.keeper.sweep()

    def sweep_all(self) -> None:
        """Until nothing is left that has a deadline: the second look forgets the names of what the first removed."""

        def is_done() -> bool:
            self.sweep(also_read=True)
            self.keeper._segments._sweeper.wait(10)  # type: ignore[attr-defined]
            return not self.stems("intents")

        insist(is_done)


# Faults: each begins with the block, and is over behind it


@contextmanager
def killed(site: Site, rng: random.Random) -> Iterator[str]:
    number = rng.randrange(2)
    site.replicas[number].kill()
    yield "killed"
    site.start_again(number)


@contextmanager
def database_ended(site: Site, rng: random.Random) -> Iterator[str]:
    site.postgres.stop()
    site.crashed = True
    try:
        yield "database ended"
    finally:
        site.postgres.start()


@contextmanager
def objects_away(site: Site, rng: random.Random) -> Iterator[str]:
    with site.store.away():
        yield "objects away"


@contextmanager
def cut_off(site: Site, rng: random.Random) -> Iterator[str]:
    """Of a replica: what it says does not arrive, or what it is answered, or neither; in the end it does, or never."""
    link = rng.choice(site.links)
    way = rng.choice([{"back": False}, {"there": False}, {}])
    link.hold(**way)
    yield f"{link.lost}{' one way' if way else ''}"
    if rng.random() < 0.5:
        link.cut()
    link.pass_all()


@contextmanager
def killed_while_cut_off(site: Site, rng: random.Random) -> Iterator[str]:
    """What it has sent last arrives after its death, while its clients ask the other one."""
    number = rng.randrange(2)
    site.links[number].hold(there=rng.random() < 0.7)
    time.sleep(0.3)
    site.replicas[number].kill()
    yield f"killed while {site.links[number].lost}"
    site.links[number].pass_all()
    site.start_again(number)


@contextmanager
def overdue(site: Site, rng: random.Random) -> Iterator[str]:
    """Uploads under way are too late, and swept."""
    yield "uploads overdue"
    for _ in range(5):
        # Unless it is the database that is amiss.
        with suppress(psycopg.OperationalError, StorageError):
            site.sweep(also_read=False)
        time.sleep(0.05)


FAULTS = (killed_while_cut_off, database_ended, objects_away, killed, cut_off, overdue)
