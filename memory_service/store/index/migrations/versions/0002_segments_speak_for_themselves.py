"""No row a record any more: what a segment's records are is read from the segment, the index keeps what changes.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import context, op

from memory_service.store.segments.layout import read_contents

revision = "0002"
down_revision = "0001"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    connection = op.get_bind()
    old_segments = connection.execute(sa.text("SELECT id, buffer_id, name, file_bytes FROM segments")).all()
    live = connection.execute(sa.text("SELECT buffer_id, segment_id, exemplar_id FROM records")).all()
    seen = connection.execute(sa.text("SELECT DISTINCT buffer_id, class_id FROM records")).all()

    for table in ("meta", "pushes", "records", "segments"):
        op.drop_table(table)
    for column in (
        sa.Column("full_samples_per_class", sa.Integer),
        sa.Column("full_sample_bytes", sa.BigInteger),
        sa.Column("num_classes", sa.Integer),
        sa.Column("disk_limit_bytes", sa.BigInteger),
        sa.Column("retain_snapshots", sa.Integer),
    ):
        op.add_column("buffers", column)
    segments = op.create_table(
        "segments",
        sa.Column("id", _Id, primary_key=True),
        sa.Column("stem", sa.String(32), nullable=False, unique=True),
        sa.Column("file_bytes", sa.BigInteger, nullable=False),
        sa.Column("num_records", sa.Integer, nullable=False),
        sa.Column("sealed", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    buffer_segments = op.create_table(
        "buffer_segments",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True, index=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "open_rows",
        sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
        sa.Column("first", sa.Integer, primary_key=True),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        sa.Column("learners", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    deaths = op.create_table(
        "deaths",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
        sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "scores",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("rank", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "snapshots",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("version", "next_exemplar_id", "num_records", "bytes_used")
        ),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    classes = op.create_table(
        "classes",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("class_id", sa.BigInteger, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pushes",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("idempotency_key", sa.String(128), primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )

    directory: Path = context.config.attributes["store"] / "segments"
    held: dict[int, set[int]] = {}
    for row in live:
        held.setdefault(row.segment_id, set()).add(row.exemplar_id)
    for row in old_segments:
        ids = read_contents(directory / row.name).headers["exemplar_id"].tolist()
        stem = row.name.removesuffix(".zarr.zip")
        values = {"id": row.id, "stem": stem, "file_bytes": row.file_bytes, "num_records": len(ids), "sealed": True}
        connection.execute(segments.insert(), values)
        connection.execute(buffer_segments.insert(), {"buffer_id": row.buffer_id, "segment_id": row.id})
        place = {"buffer_id": row.buffer_id, "segment_id": row.id, "version": 0}
        gone = [{**place, "exemplar_id": id_} for id_ in ids if id_ not in held.get(row.id, ())]
        if gone:
            connection.execute(deaths.insert(), gone)
    if seen:
        connection.execute(classes.insert(), [{"buffer_id": row.buffer_id, "class_id": row.class_id} for row in seen])
