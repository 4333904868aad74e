"""What replicas say of an index that they share, in SQL: who holds what, and what they have changed."""

from __future__ import annotations

import logging
from typing import Final

import sqlalchemy as sa

from memory_service.store.index.database import HOLDERS, STORE
from memory_service.store.index.reading import unanswered
from memory_service.store.index.sql import as_storage_error

logger = logging.getLogger(__name__)

_OF_BUFFER: Final = "hashtextextended(current_schema() || ' ' || %s::bigint, 1701668205)"
TAKE_BUFFER: Final = f"SELECT pg_advisory_lock({_OF_BUFFER})"
LEAVE_BUFFER: Final = f"SELECT pg_advisory_unlock({_OF_BUFFER})"
_COUNT_IN_STORE: Final = "UPDATE store SET changes = changes + :by, learners_counted = learners_counted AND :keeps"
_IDS: Final = (
    "ARRAY(SELECT nextval(pg_get_serial_sequence('segments', 'id')) FROM generate_series(1, CAST(:ids AS int))) AS ids"
)
BUFFER: Final = sa.text(f"SELECT (SELECT changes FROM buffers WHERE id = :of) AS number, {_IDS}").columns(
    number=sa.BigInteger, ids=sa.ARRAY(sa.BigInteger)
)
AND_ANSWERS: Final = BUFFER.subquery("taken")
COUNT: Final = unanswered(
    # Where somebody else has counted, this divides by zero.
    sa.text("UPDATE buffers SET changes = changes + 1 / CAST(changes = :seen AS int) WHERE id = :of")
)
SILENT_SECONDS: Final = 60.0
"""How long a transaction waits for its next statement, as where a session is idle in one."""
_END_SILENT: Final = sa.text(
    # Between two statements of a pipeline a session is no idle one, and runs none: no timeout of the server's counts
    # then (PostgreSQL 16.14, findings/postgres_pipeline_timeouts.sh). First they are found: conditions have no order.
    f"WITH silent AS MATERIALIZED (SELECT a.pid, a.application_name {HOLDERS.format(STORE)} "
    "AND a.state = 'active' AND a.wait_event = 'ClientRead' AND a.usename = current_user "
    "AND a.state_change < now() - make_interval(secs => :seconds)) "
    "SELECT application_name FROM silent WHERE pg_terminate_backend(pid)"
)
"""Those of a store's replicas that were cut off, or stopped, amid a transaction; its locks are free then."""
BEGIN_UPLOADS: Final = sa.text(
    # One statement is a transaction by itself. The time is in whole seconds, by the database's clock.
    "WITH named AS (INSERT INTO intents (stem, leaving, upload_until) SELECT stem, false, "
    "CAST(extract(epoch FROM now()) + CAST(:seconds AS double precision) AS bigint) "
    "FROM unnest(CAST(:stems AS text[])) AS stem) "
    f"{_COUNT_IN_STORE} RETURNING changes, {_IDS}"
)
COUNT_IN_STORE: Final = sa.text(f"{_COUNT_IN_STORE} RETURNING store_id, changes")


def end_silent(engine: sa.Engine, place: str) -> None:
    """End connections whose transaction has waited for its next statement for too long. Raises ``StorageError``."""
    with as_storage_error(), engine.connect() as connection:
        ended = connection.execute(_END_SILENT, {"seconds": SILENT_SECONDS})
    for name in ended.scalars():
        logger.warning("a connection of %s to %s is ended: it was silent amid a transaction", name, place)
