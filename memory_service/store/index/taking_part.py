"""How a connection of a replica takes part in a store: with each of them, so that nobody else comes in between."""

from __future__ import annotations

import time
from typing import Any, Final

from psycopg.rows import namedtuple_row

from memory_format import StorageError
from memory_service.store.index.database import FIT, HOLDER, HOLDER_OF, LOCK, Database

_LOCK_SECONDS: Final = 3.0
"""As with one that has the store alone: its session may live a little longer."""
LOCK_TIMEOUT_SECONDS: Final = 10
"""How long a change waits for one of the same buffer through another replica."""

_TAKE: Final = f"SELECT pg_try_advisory_lock_shared({LOCK}) AS taken, {FIT}"
_SIDES: Final = 1701668206
"""And the number behind it: locks of replicas that count bytes of learners, and of those that do not."""
_TAKE_SIDE: Final = "SELECT pg_advisory_lock_shared({}, hashtext(current_schema()))"


def take_part(driver: Any, index: Database, *, keeps_learners: bool) -> None:
    """Hold a part of the store's lock for as long as the connection lives.

    Raises:
        StorageError: ``store_locked``: a service has it alone, or other replicas count bytes of learners and this one
            does not, or the other way round; what some count and others do not is never what it should be.
    """
    until = time.monotonic() + _LOCK_SECONDS
    with driver.cursor(row_factory=namedtuple_row) as cursor:
        while not (found := cursor.execute(_TAKE).fetchone()).taken:
            index.expect_fit(found)
            (holder,) = cursor.execute(str(HOLDER)).fetchone() or ("which does not say its name",)
            words = f"a service has the store in {index.place} alone ({holder}): start all of them with --replicas"
            _wait(driver, until, words)
        index.expect_fit(found)
        cursor.execute(_TAKE_SIDE.format(_SIDES + keeps_learners))
        while other := cursor.execute(HOLDER_OF.format(_SIDES + (not keeps_learners))).fetchone():
            have = "without" if keeps_learners else "with"
            words = (
                f"a replica of the store in {index.place} is {have} learner_bytes ({other[0]}): all have it, or none"
            )
            _wait(driver, until, words)
        cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
    driver.commit()


def _wait(driver: Any, until: float, words: str) -> None:
    if time.monotonic() > until:
        raise StorageError(words, code="store_locked")
    driver.commit()
    time.sleep(0.02)
