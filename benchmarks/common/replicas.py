"""Replicas of the service that share an index and an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from memory_service.testing import ServiceProcess
from memory_service.testing.postgres import PostgresServer


def start_replicas(
    place: Path,
    stack: ExitStack,
    *,
    index: str | None = None,
    segments: str | None = None,
    cores: Sequence[Sequence[int]] = ((), ()),
) -> list[str]:
    """The URLs of replicas that end with ``stack``.

    Args:
        place: directory for what is theirs, and for their logs; made where it does not exist.
        index: of the schema that they share; None = of a PostgreSQL server that starts and ends here, too.
        segments: URL of an empty prefix in an object store; None = a directory, by the same code.
        cores: for each of them, where it stays; none = anywhere.

    Raises:
        memory_service.testing.postgres.NoPostgresError: no PostgreSQL server is installed.
    """
    (place / "objects").mkdir(parents=True, exist_ok=True)
    if index is None:
        database = PostgresServer(durable=True)
        stack.callback(database.remove)
        index = database.new_schema()
    environment = {
        "MEMORY_SERVICE_INDEX": index,
        "MEMORY_SERVICE_SEGMENTS": segments or f"file://{place / 'objects'}",
    }
    urls = []
    for number, chosen in enumerate(cores):
        name = f"replica-{number}"
        with on_cores(chosen):
            replica = ServiceProcess(place / name, "--replicas", environment=environment, log=place / f"{name}.log")
        urls.append(stack.enter_context(replica).url)
    return urls


@contextmanager
def on_cores(chosen: Sequence[int]) -> Iterator[None]:
    """Processes that are started in here stay on these cores. None chosen = anywhere."""
    if not chosen:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
