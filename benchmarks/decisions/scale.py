"""Which part of many replicas is in the way first, second and third: a simulation with measured constants.

    python -m benchmarks.decisions.scale --index postgresql+psycopg://USER@HOST/DATABASE --segments s3://BUCKET/PREFIX

A statement of the database and a range of the object store are measured here, over what the options name (nothing is
left there). A draw, a record's memory, and what it takes to read a buffer's rows are those of
``benchmarks/results/storage/latest.json``. Then learners train, draw and push for a minute of simulated time, at
stations that serve in order of arrival: cores of the replicas, the database, the object store, and who may change a
buffer. Nothing else takes time; so it is a bound from above. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from typing import Final, NamedTuple

import numpy as np
from sqlalchemy import Connection, TextClause, create_engine, text

from benchmarks.common.document import RESULTS
from memory_service.store.segments.bucket import Bucket

BATCH: Final = 256
SIMULATED_SECONDS: Final = 60.0
_SIDE_BY_SIDE: Final = 10
"""Ranges of one draw that are asked for at once."""


@dataclass(frozen=True)
class Constants:
    """What one thing takes; seconds, but for the bytes."""

    draw: float
    """Of a replica's core: a draw of :data:`BATCH` records over HTTP, from memory."""
    row: float
    """Of a replica's core: to read what the index says of a record."""
    record_memory: float
    """Bytes of a replica's memory for each record that it knows."""
    statement: float
    """Of one of the database's cores."""
    push: float
    """Of a replica's core: a push of a thousand records over HTTP."""
    note: float
    """Of one of the database's cores: to note such a push."""
    get: float
    """Of one of the object store's cores: a range of a record."""


@dataclass(frozen=True)
class World:
    """What there is."""

    learners: int = 1000
    replicas: int = 100
    exemplars: float = 1e9
    buffers: int = 1000
    record_bytes: float = 20_000
    step: float = 0.5
    """Seconds between two draws of a learner."""
    push_every: float = 300.0
    """Seconds between two pushes of a learner, a thousand records each."""
    stores: int = 1
    """With a database and replicas of its own each; learners and buffers are split among them."""
    database_cores: int = 16
    """Of each store."""
    object_cores: int = 400
    """Of all of them."""
    cache_bytes: float = 8 * 2**30
    by_learner: bool = False
    """A learner is always sent to the same replica; else to any."""
    only_new: bool = False
    """A replica that is behind reads what is new; else all of the buffer."""

    @property
    def buffer_records(self) -> float:
        return self.exemplars / self.buffers

    @property
    def missed(self) -> float:
        """Share of the records of a draw that are not among the replica's copies."""
        drawn = min(self.buffers, self.learners / self.replicas) if self.by_learner else self.buffers / self.stores
        return max(0.0, 1 - self.cache_bytes / (drawn * self.buffer_records * self.record_bytes))


class Visit(NamedTuple):
    station: Station
    seconds: float


@dataclass
class Station:
    """Serves as many as it has servers, in order of arrival."""

    servers: int
    free: list[float] = field(default_factory=list)
    """When each server is done; a heap."""
    busy: float = 0.0

    def __post_init__(self) -> None:
        self.free = [0.0] * self.servers

    def serve(self, now: float, seconds: float) -> float:
        """When it is done with who comes now."""
        begins = max(now, heappop(self.free))
        heappush(self.free, begins + seconds)
        # Within what is looked at.
        self.busy += max(0.0, min(begins + seconds, SIMULATED_SECONDS) - min(begins, SIMULATED_SECONDS))
        return begins + seconds


class Outcome(NamedTuple):
    draws: float
    """A second."""
    wanted: float
    p50: float
    p99: float
    busy: dict[str, float]
    """Share of its time that each kind of station is busy; of the busiest of its kind."""
    memory: float
    """Bytes of a replica's, for what it knows of records."""


def simulate(world: World, constants: Constants, seed: int = 0) -> Outcome:
    """One minute."""
    rng = np.random.default_rng(seed)
    replicas = [Station(1) for _ in range(world.replicas)]
    databases = [Station(world.database_cores) for _ in range(world.stores)]
    objects = Station(max(1, world.object_cores // _SIDE_BY_SIDE))
    locks = [Station(1) for _ in range(world.buffers)]
    version = [0] * world.buffers
    seen = np.zeros((world.replicas, world.buffers), np.int64)
    behind = (1000 if world.only_new else world.buffer_records) * constants.row
    fetched = BATCH * world.missed * constants.get / _SIDE_BY_SIDE
    some: Iterator[int] = iter(rng.integers(world.replicas // world.stores, size=1_000_000).tolist())

    def replica_for(learner: int) -> int:
        # Replica r is of store r % stores, as learner l is.
        if world.by_learner:
            return learner % world.replicas
        return learner % world.stores + world.stores * next(some)

    def draw(learner: int) -> Iterator[Visit]:
        buffer = learner % world.buffers
        at = replica_for(learner)
        yield Visit(databases[learner % world.stores], constants.statement)
        now = version[buffer]
        if seen[at, buffer] < now:
            # Who comes meanwhile waits for the same core anyway.
            seen[at, buffer] = now
            yield Visit(replicas[at], behind)
        if fetched:
            yield Visit(objects, fetched)
        yield Visit(replicas[at], constants.draw)

    def push(learner: int) -> Iterator[Visit]:
        buffer = learner % world.buffers
        at = replica_for(learner)
        if seen[at, buffer] < version[buffer]:
            yield Visit(replicas[at], behind)
        # Who changes a buffer holds it until that is committed.
        yield Visit(locks[buffer], constants.push + constants.note)
        replicas[at].serve(locks[buffer].free[0], constants.push)
        yield Visit(databases[learner % world.stores], constants.note)
        version[buffer] += 1
        seen[at, buffer] = version[buffer]

    took = _run(world, rng, draw, push)
    busy = {
        "a replica's core": max(each.busy for each in replicas) / SIMULATED_SECONDS,
        "the database": max(each.busy for each in databases) / SIMULATED_SECONDS / world.database_cores,
        "the object store": objects.busy / SIMULATED_SECONDS / objects.servers,
        "a buffer's changes": max(each.busy for each in locks) / SIMULATED_SECONDS,
    }
    times = np.array(took or [np.inf])
    # A start reads what the index says of all buffers.
    memory = world.exemplars / world.stores * constants.record_memory
    median, slow = np.quantile(times, [0.5, 0.99]).tolist()
    return Outcome(len(took) / SIMULATED_SECONDS, world.learners / world.step, median, slow, busy, memory)


def _run(
    world: World,
    rng: np.random.Generator,
    draw: Callable[[int], Iterator[Visit]],
    push: Callable[[int], Iterator[Visit]],
) -> list[float]:
    """How long each draw took that ended within the minute."""
    took: list[float] = []
    coming: list[tuple[float, int, int, float, Iterator[Visit]]] = []
    number = 0
    kinds = ((draw, world.step), (push, world.push_every))
    for learner in range(world.learners):
        for kind, (begin, every) in enumerate(kinds):
            number += 1
            at = float(rng.random() * every)
            heappush(coming, (at, number, 2 * learner + kind, at, begin(learner)))
    while coming and coming[0][0] < SIMULATED_SECONDS:
        now, _, who, began, visits = heappop(coming)
        number += 1
        if (visit := next(visits, None)) is not None:
            heappush(coming, (visit.station.serve(now, visit.seconds), number, who, began, visits))
            continue
        learner, kind = divmod(who, 2)
        begin, every = kinds[kind]
        if kind == 0:
            took.append(now - began)
        # Answers come ahead of their use: a draw that takes less than a step costs none.
        at = max(now, began + every)
        heappush(coming, (at, number, who, at, begin(learner)))
    return took


def measure(index: str, segments: str) -> Constants:
    """What this machine takes."""
    storage = json.loads((RESULTS / "storage" / "latest.json").read_text())
    kept, scale = storage["found"], storage["found"]["scale"]
    statement, notes = _database(index, round(1000 * storage["summary"]["index_bytes_per_record"]))
    return Constants(
        draw=statistics.median(kept["stages"][0]["warm"]["ours, HTTP"]["seconds"]),
        row=statistics.median(scale["open_seconds"]) / scale["records"],
        record_memory=(scale["opened_resident"] - scale["empty_resident"]) / scale["records"],
        statement=statement,
        push=statistics.median(kept["push"]["1000"]["ours, HTTP"]["seconds"]),
        note=notes,
        get=_object_store(segments),
    )


def _database(url: str, num_bytes: int) -> tuple[float, float]:
    """Seconds of a statement that finds a row, and of a transaction that adds one of so many bytes."""
    with create_engine(url).connect() as connection:
        connection.execute(text("CREATE TABLE scale_of_many (id integer PRIMARY KEY, headers bytea)"))
        connection.commit()
        try:
            headers = np.random.default_rng(0).bytes(num_bytes)
            put = text("INSERT INTO scale_of_many VALUES (:id, :headers)")
            notes = [_seconds(partial(_commit, connection, put, id=at, headers=headers)) for at in range(50)]
            find = text("SELECT id FROM scale_of_many WHERE id = :id")
            statements = [_seconds(partial(connection.execute, find, {"id": at % 50})) for at in range(1000)]
            connection.rollback()
        finally:
            connection.execute(text("DROP TABLE scale_of_many"))
            connection.commit()
    return statistics.median(statements), statistics.median(notes)


def _commit(connection: Connection, statement: TextClause, **given: object) -> None:
    connection.execute(statement, given)
    connection.commit()


def _object_store(url: str) -> float:
    """Seconds between two answers, where ten ranges are asked for at once."""
    place, key, size = Bucket(url), "scale-of-many", 2**24
    place.replace(key, bytes(size))
    try:
        spans = [(int(at), int(at) + 20_000) for at in np.random.default_rng(0).integers(size - 20_000, size=500)]
        return _seconds(lambda: place.read_spans(key, spans)) / len(spans)
    finally:
        place.delete([key])


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


STEPS: Final[dict[str, dict[str, object]]] = {
    "one store": {},
    "ten stores of ten replicas": {"stores": 10},
    "a learner stays with a replica": {"by_learner": True},
    "256 GB of copies a replica": {"cache_bytes": 256e9},
    "one buffer for all, in one store": {"stores": 1, "by_learner": False, "buffers": 1},
    "new rows alone are read": {"only_new": True},
}
"""Each is what the one before is, and this. Since then, replicas read as in the last one."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True, metavar="URL")
    parser.add_argument("--segments", required=True, metavar="URL")
    options = parser.parse_args(arguments)
    constants = measure(options.index, options.segments)
    print(*(f"{name:14} {value:.3g}" for name, value in asdict(constants).items()), sep="\n")
    found, world = {}, World()
    for name, change in STEPS.items():
        world = replace(world, **change)  # type: ignore[arg-type]
        outcome = simulate(world, constants)
        found[name] = outcome._asdict()
        print(f"\n{name}: {outcome.draws:.0f} of {outcome.wanted:.0f} draws a second, 99 % within {outcome.p99:.3g} s")
        print(f"  memory of a replica {outcome.memory / 2**30:.1f} GiB; records that are fetched {world.missed:.0%}")
        for part, share in outcome.busy.items():
            print(f"  {part} busy {share:.1%}" + (", full" if share > 0.95 else ""))
    print(json.dumps({"constants": asdict(constants), "found": found}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
