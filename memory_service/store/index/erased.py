"""Who has confirmed that copies of what was erased are gone, and receipts of that, in SQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import sqlalchemy as sa

from memory_service.store.index import tables
from memory_service.store.index.reading import Reading
from memory_service.store.index.writing import Writing

CHANNEL: Final = "exemplar_memory_erased"
"""Of notifications, in a database of PostgreSQL: replicas are told by it to look."""
FORGOTTEN_DAYS: Final = 30
"""For how long a replica is named that does not come back."""
_PAGE: Final = 100

_KEY: Final = "hashtextextended(current_schema() || ' replica ' || {}, 1701668205)"
_SESSIONS: Final = (
    "SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND "
    "(l.classid::bigint << 32 | l.objid::bigint) = {} AND "
    "l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_IS_THERE: Final = f"EXISTS ({_SESSIONS.format(_KEY.format('r.id'))})"
_NOW: Final = "CAST(extract(epoch FROM now()) AS bigint)"

# Of a replica, in a session that lives for as long as it is there to confirm; for the driver.
JOIN: Final = (
    f"WITH gone AS (DELETE FROM replicas r WHERE id <> %(id)s AND seen_at < {_NOW} - {FORGOTTEN_DAYS * 86400} AND NOT "
    f"{_IS_THERE}), joined AS (INSERT INTO replicas (id, place, confirmed, seen_at, run) "
    f"VALUES (%(id)s, %(place)s, 0, {_NOW}, %(run)s) ON CONFLICT (id) DO UPDATE "
    "SET place = excluded.place, seen_at = excluded.seen_at, run = excluded.run WHERE replicas.run = ANY(%(runs)s) "
    f"RETURNING id) SELECT erasures, pg_advisory_lock_shared({_KEY.format('joined.id')}), "
    f"pg_notify('{CHANNEL}', '') FROM store, joined"
)
"""No row: another one has come with that id since. Who is there with it is told to look."""
OTHERS: Final = f"SELECT EXISTS ({_SESSIONS.format(_KEY.format('%(id)s'))} AND l.pid <> pg_backend_pid())"
"""Whether another session has that id."""
LEAVE: Final = f"SELECT pg_advisory_unlock_shared({_KEY.format('%(id)s')})"
CONFIRM: Final = (
    f"UPDATE replicas SET confirmed = %(number)s, seen_at = {_NOW} "
    "WHERE id = %(id)s AND run = ANY(%(runs)s) AND confirmed < %(number)s"
)
LOOK: Final = (
    # Who looks is there, however long ago it has started.
    f"WITH seen AS (UPDATE replicas SET seen_at = {_NOW} WHERE id = %(id)s AND seen_at < {_NOW} - 86400) "
    "SELECT erasures, (SELECT run FROM replicas WHERE id = %(id)s) FROM store"
)

_COUNT: Final = tables.store.update().values(erasures=tables.store.c.erasures + 1).returning(tables.store.c.erasures)
_TELL: Final = sa.text(f"SELECT pg_notify('{CHANNEL}', '')")
_BEHIND: Final = sa.text(
    f"SELECT place, {_IS_THERE} AS is_there FROM replicas r WHERE confirmed < :number AND NOT (id = :id AND "
    "run = ANY(:runs)) ORDER BY place"
)


class Named(NamedTuple):
    """By what others know a replica: what is in the file ``replica`` of its directory."""

    id: str
    """Of the directory."""
    runs: list[str]
    """What its last start called itself; and before the index knows that one, the one before it."""


NOBODY: Final = Named("", [])


@dataclass(frozen=True)
class Behind:
    """A replica that may have copies of what was erased."""

    place: str
    is_there: bool
    """Whether it is connected, and so about to remove them."""


def count(writing: Writing) -> int:
    """Tell all replicas that copies of segments which the index names no more are to go; returns the number by which
    they confirm it."""
    number = int(writing.connection.execute(_COUNT).scalar_one())
    writing.connection.execute(_TELL)
    return number


def behind(reading: Reading, number: int, but: Named) -> list[Behind]:
    """Those that have not confirmed that, but for one."""
    return [Behind(*row) for row in reading.connection.execute(_BEHIND, {"number": number, **but._asdict()})]


def leaving(reading: Reading) -> list[str]:
    """Names of segments that were to go, whether or not their time has come."""
    i = tables.intents.c
    return list(reading.connection.execute(sa.select(i.stem).where(i.leaving)).scalars())


def uploading(reading: Reading) -> list[str]:
    """Names of segments that were announced to be put, and are none yet."""
    i = tables.intents.c
    statement = sa.select(i.stem).where(~i.leaving, i.upload_until.is_not(None))
    return list(reading.connection.execute(statement).scalars())


def confirm(writing: Writing, number: int, replica: Named) -> None:
    """One has no copies of what was erased up to that number."""
    writing.connection.exec_driver_sql(CONFIRM, {"number": number, **replica._asdict()})


# Receipts


def insert_receipt(writing: Writing, id_: str, document: str, *, number: int = 0, most: int) -> None:
    """Keep a receipt, unless there is one of that id, and forget all but the newest."""
    r = tables.receipts.c
    if writing.connection.execute(sa.select(r.id).where(r.id == id_)).first() is not None:
        return
    writing.connection.execute(tables.receipts.insert(), {"id": id_, "number": number, "document": document})
    last = sa.select(r.id).order_by(r.id.desc()).offset(most).limit(1).scalar_subquery()
    writing.connection.execute(tables.receipts.delete().where(r.id <= last))


def receipts(reading: Reading, before: str | None) -> Iterator[tuple[str, str, set[str]]]:
    """Id and document of each, the newest first, those behind an id; and places of replicas that have not confirmed it
    by now."""
    r, p = tables.receipts.c, tables.replicas.c
    waiting = reading.connection.execute(sa.select(p.place, p.confirmed)).all()
    statement = sa.select(r.id, r.number, r.document).order_by(r.id.desc()).limit(_PAGE)
    while True:
        rows = reading.connection.execute(statement if before is None else statement.where(r.id < before)).all()
        for row in rows:
            yield row.id, row.document, {place for place, confirmed in waiting if confirmed < row.number}
        if len(rows) < _PAGE:
            return
        before = rows[-1].id
