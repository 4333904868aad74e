"""Who has confirmed that copies of what was erased are gone, and receipts of that, in SQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

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
_IS_THERE: Final = (
    "EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND "
    f"(l.classid::bigint << 32 | l.objid::bigint) = {_KEY.format('r.id')} AND "
    "l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)
_NOW: Final = "CAST(extract(epoch FROM now()) AS bigint)"

# Of a replica, in a session that lives for as long as it is there to confirm; for the driver.
JOIN: Final = (
    f"WITH gone AS (DELETE FROM replicas r WHERE id <> %(id)s AND seen_at < {_NOW} - {FORGOTTEN_DAYS * 86400} AND NOT "
    f"{_IS_THERE}), joined AS (INSERT INTO replicas VALUES (%(id)s, %(place)s, 0, {_NOW}) ON CONFLICT (id) DO UPDATE "
    "SET place = excluded.place, seen_at = excluded.seen_at RETURNING id) "
    f"SELECT erasures, pg_advisory_lock_shared({_KEY.format('joined.id')}) FROM store, joined"
)
CONFIRM: Final = (
    f"UPDATE replicas SET confirmed = %(number)s, seen_at = {_NOW} WHERE id = %(id)s AND confirmed < %(number)s"
)
LOOK: Final = (
    # Who looks is there, however long ago it has started.
    f"WITH seen AS (UPDATE replicas SET seen_at = {_NOW} WHERE id = %(id)s AND seen_at < {_NOW} - 86400) "
    "SELECT erasures FROM store"
)

_COUNT: Final = tables.store.update().values(erasures=tables.store.c.erasures + 1).returning(tables.store.c.erasures)
_TELL: Final = sa.text(f"SELECT pg_notify('{CHANNEL}', '')")
_BEHIND: Final = sa.text(
    f"SELECT place, {_IS_THERE} AS is_there FROM replicas r WHERE confirmed < :number AND id <> :but ORDER BY place"
)


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


def behind(reading: Reading, number: int, but: str) -> list[Behind]:
    """Those that have not confirmed that, but for one."""
    return [Behind(*row) for row in reading.connection.execute(_BEHIND, {"number": number, "but": but})]


def leaving(reading: Reading) -> list[str]:
    """Names of segments that were to go, whether or not their time has come."""
    i = tables.intents.c
    return list(reading.connection.execute(sa.select(i.stem).where(i.leaving)).scalars())


def uploading(reading: Reading) -> list[str]:
    """Names of segments that were announced to be put, and are none yet."""
    i = tables.intents.c
    statement = sa.select(i.stem).where(~i.leaving, i.upload_until.is_not(None))
    return list(reading.connection.execute(statement).scalars())


def confirm(writing: Writing, number: int, replica_id: str) -> None:
    """One has no copies of what was erased up to that number."""
    writing.connection.exec_driver_sql(CONFIRM, {"number": number, "id": replica_id})


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
