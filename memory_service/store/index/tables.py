"""The tables of the index.

A record has no row. A sealed segment says itself what records it holds; the index says which segments a buffer
consists of, which of their records have died and when, and whose score has changed since. That is what keeps a
push of a thousand records one small transaction, and the opening of a million records a matter of reading a few
files (docs/decisions/0004).

The database itself refuses what must never be: a CHECK holds ``bytes_used`` within the budget, and foreign keys
keep a segment's row while a buffer consists of it.

What is JSON is written into columns of text, never of ``sa.JSON``: SQLite makes a number of what looks like one there
(SQLAlchemy 2.1.9, findings/sqlalchemy_json_numbers.sh).
"""

from __future__ import annotations

import sqlalchemy as sa

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()

buffers = sa.Table(
    "buffers",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    sa.Column("budget_bytes", sa.BigInteger, nullable=False),
    # How the budget was given, where not in bytes: see model.Budget.
    sa.Column("full_samples_per_class", sa.Integer),
    sa.Column("full_sample_bytes", sa.BigInteger),
    sa.Column("num_classes", sa.Integer),
    sa.Column("max_budget_bytes", sa.BigInteger),
    sa.Column("disk_limit_bytes", sa.BigInteger),
    sa.Column("eviction", sa.String(32), nullable=False),
    sa.Column("retain_snapshots", sa.Integer),
    sa.Column("learner_floor", sa.Double),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("bytes_used", sa.BigInteger, nullable=False),
    sa.Column("num_records", sa.BigInteger, nullable=False),
    sa.Column("next_exemplar_id", sa.BigInteger, nullable=False),
    # See model.BufferConfig.
    sa.Column("draw_key", sa.String(63), nullable=False, server_default=sa.text("''")),
    sa.Column("patch_px", sa.Integer),
    sa.Column("vocabulary", sa.String(32)),
    sa.Column("vocabulary_name", sa.String(200), nullable=False, server_default=sa.text("''")),
    sa.Column("owner", sa.String(64), nullable=False, server_default=sa.text("''")),
    sa.Column("made_by", sa.String(80), nullable=False, server_default=sa.text("''")),
    # By replicas: who shares the index knows by it whether there is more to see.
    sa.Column("changes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.CheckConstraint("bytes_used >= 0 AND bytes_used <= budget_bytes", name="within_budget"),
    sa.CheckConstraint("num_records >= 0", name="records_counted"),
    # Ids are never given twice: what an old process remembers of a deleted buffer cannot be taken for a new
    # one. A batch operation of Alembic's would lose this (findings/alembic_batch_recreated.sh).
    sqlite_autoincrement=True,
)

segments = sa.Table(
    "segments",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("stem", sa.String(32), nullable=False, unique=True),
    # Of an open segment, the bytes that count: a crash may have left more.
    sa.Column("file_bytes", sa.BigInteger, nullable=False),
    sa.Column("num_records", sa.Integer, nullable=False),
    sa.Column("sealed", sa.Boolean, nullable=False),
    sqlite_autoincrement=True,
)

buffer_segments = sa.Table(
    "buffer_segments",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True, index=True),
    sqlite_with_rowid=False,
)
"""Forks share segments, so a segment can be part of several buffers."""

open_rows = sa.Table(
    "open_rows",
    metadata,
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
    sa.Column("first", sa.Integer, primary_key=True),
    sa.Column("headers", sa.LargeBinary, nullable=False),
    sa.Column("learners", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
"""Headers of the records of open segments, a row a push: ``headers`` is an array of ``HEADER_DTYPE``, ``learners``
a JSON list of the learner ids that were new to the segment."""

open_bodies = sa.Table(
    "open_bodies",
    metadata,
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
    sa.Column("first", sa.Integer, primary_key=True),
    sa.Column("bodies", sa.LargeBinary, nullable=False),
)
"""Bodies of the records of open segments, end to end, a row a push, where segments are objects: those never grow."""

deaths = sa.Table(
    "deaths",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
    sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Records of a segment that the buffer no longer holds, and the version at which it ceased to."""

revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
    sa.Column("stored_id", sa.BigInteger, primary_key=True),
    sa.Column("exemplar_id", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("pushed_crc32", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Records of a segment that took the place of another: see ``memory_service.store.pure.revised``."""

scores = sa.Table(
    "scores",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    # Not real, which PostgreSQL 18.6 adds up in real (findings/postgres_sum_real.sh).
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("rank", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""What a record's score and rank are from a version on, where they were changed after its push."""

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("next_exemplar_id", sa.BigInteger, nullable=False),
    sa.Column("num_records", sa.BigInteger, nullable=False),
    sa.Column("bytes_used", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("erased", sa.BigInteger, nullable=False, server_default=sa.text("0")),
)

origins = sa.Table(
    "origins",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    # Of a buffer that may be gone.
    sa.Column("origin_id", _Id, primary_key=True, index=True),
    # Of the origin, when that was forked: exemplars below it are the same in both. NULL: an earlier version did it.
    sa.Column("next_exemplar_id", sa.BigInteger),
    sqlite_with_rowid=False,
)
"""What a buffer was forked from, and that from, and so on."""

erasures = sa.Table(
    "erasures",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
    sa.Column("crc32", sa.BigInteger, primary_key=True),
    sa.Column("length", sa.BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)
"""Records that are being erased from a buffer: rows go once no file holds them any more."""

classes = sa.Table(
    "classes",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("class_id", sa.BigInteger, primary_key=True),
    sqlite_with_rowid=False,
)
"""Classes that a buffer has ever been offered: what a growing budget grows with."""

class_names = sa.Table(
    "class_names",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("class_id", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.UniqueConstraint("buffer_id", "name", name="a_name_a_class"),
    sqlite_with_rowid=False,
)
"""What classes are called, whether records of them were offered or not."""

vocabularies = sa.Table(
    "vocabularies",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("words", sa.LargeBinary, nullable=False),
)
"""The words of a buffer's vocabulary, where they are known (``memory_service.store.pure.words``)."""

phases = sa.Table(
    "phases",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    sa.Column("learner_id", sa.String(64), primary_key=True),
    sa.Column("phase", sa.Integer, nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("entered_at", sa.Float, nullable=False),
    sqlite_with_rowid=False,
)
"""Which phase learners of a buffer have said to be in."""

pushes = sa.Table(
    "pushes",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    # Of the push's first record; empty in answers from before keys belonged to learners.
    sa.Column("learner_id", sa.String(64), primary_key=True, server_default=sa.text("''")),
    sa.Column("idempotency_key", sa.String(128), primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    # See answers.py.
    sa.Column("answer", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sqlite_with_rowid=False,
)

news = sa.Table(
    "news",
    metadata,
    sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
    # As in buffers.changes.
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("what", sa.LargeBinary, nullable=False),
)
"""What the last changes of a buffer did (``memory_service.store.pure.news``): by replicas, for replicas."""

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(63), primary_key=True),
    # Microseconds since 1970.
    sa.Column("stored_at", sa.BigInteger, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
"""Reports of runs, where the index is a database; else they are files (``memory_service.store.report_places``)."""

store = sa.Table(
    "store",
    metadata,
    # One row, 1.
    sa.Column("id", _Id, primary_key=True),
    sa.Column("store_id", sa.String(32), nullable=False),
    sa.Column("changes", sa.BigInteger, nullable=False),
    # Whether learner_bytes is what the records come to.
    sa.Column("learners_counted", sa.Boolean, nullable=False, server_default=sa.false()),
    # How many there were of which other processes may have copies: see replicas.
    sa.Column("erasures", sa.BigInteger, nullable=False, server_default=sa.text("0")),
)
"""Which store this is the index of, and how many transactions have changed it."""

learner_bytes = sa.Table(
    "learner_bytes",
    metadata,
    sa.Column("learner_id", sa.String(64), primary_key=True),
    sa.Column("num_bytes", sa.BigInteger, nullable=False),
    # What they had to stay within when they last grew; NULL: they were counted, or have become less.
    sa.Column("most_bytes", sa.BigInteger),
    sa.CheckConstraint("num_bytes >= 0", name="learner_bytes_counted"),
    sa.CheckConstraint("num_bytes <= most_bytes", name="within_learner_quota"),
    sqlite_with_rowid=False,
)
"""What the live records of each learner are charged in all buffers together, while a service keeps them to a quota."""

replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    # For people.
    sa.Column("place", sa.String(100), nullable=False),
    # As in store.erasures: of what was erased up to that one it has no copies.
    sa.Column("confirmed", sa.BigInteger, nullable=False),
    # Seconds since 1970 by the database's clock, to a day: when it was there the last time.
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    # What its last start called itself, as the file in its directory says: a copy of the directory says another one.
    sa.Column("run", sa.String(32), nullable=False, server_default="-"),
    sqlite_with_rowid=False,
)
"""Who has had the store open beside others, and keeps copies of segments in a directory of its own."""

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    # As in store.erasures.
    sa.Column("number", sa.BigInteger, nullable=False),
    # As in the files of memory_service.store.receipts.
    sa.Column("document", sa.Text, nullable=False),
)
"""Receipts of erasures, where the index is a database that others reach, too."""

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("stem", sa.String(32), primary_key=True),
    # Whether a segment's row was removed, and the file is to go; else it is about to be made.
    sa.Column("leaving", sa.Boolean, nullable=False),
    # Seconds since 1970 by the database's clock: who uploads it as an object does not go on beyond.
    sa.Column("upload_until", sa.BigInteger),
    sqlite_with_rowid=False,
)
"""Segment files that no row of ``segments`` speaks of and that may be there all the same."""

BUFFER_TABLES = (
    buffer_segments,
    deaths,
    revisions,
    scores,
    snapshots,
    origins,
    erasures,
    classes,
    class_names,
    vocabularies,
    phases,
    pushes,
    news,
)
"""Tables with a ``buffer_id``, in an order in which their rows can be deleted."""
