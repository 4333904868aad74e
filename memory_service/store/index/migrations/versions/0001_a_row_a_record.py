"""The first schema: a row a record.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table("meta", sa.Column("schema_version", sa.Integer, nullable=False))
    op.create_table(
        "buffers",
        sa.Column("id", _Id, primary_key=True),
        sa.Column("name", sa.String(63), nullable=False, unique=True),
        sa.Column("budget_bytes", sa.BigInteger, nullable=False),
        sa.Column("eviction", sa.String(32), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("bytes_used", sa.BigInteger, nullable=False),
        sa.Column("num_records", sa.BigInteger, nullable=False),
        sa.Column("next_exemplar_id", sa.BigInteger, nullable=False),
        sa.CheckConstraint("bytes_used >= 0 AND bytes_used <= budget_bytes", name="within_budget"),
        sa.CheckConstraint("num_records >= 0", name="records_counted"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "segments",
        sa.Column("id", _Id, primary_key=True),
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), nullable=False, index=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("file_bytes", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "records",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
        sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), nullable=False, index=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("offset", "length", "crc32", "class_id")),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("learner_id", sa.String(64), nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("rank", sa.BigInteger, nullable=False),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("grid_h", "grid_w", "patch_px", "codec", "flags", "text_length", "num_patches", "num_tokens")
        ),
        sa.Column("charge", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pushes",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("idempotency_key", sa.String(128), primary_key=True),
        sa.Column("body_digest", sa.String(64), nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False, index=True),
    )
