"""Records can be erased: which are, what snapshots have lost by it, and which buffers were forked from which.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("erased", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.create_table(
        "origins",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("origin_id", _Id, primary_key=True, index=True),
        sqlite_with_rowid=False,
    )
    # Of the forks there are, those are known that share a file with what they were made of.
    op.execute(
        "INSERT INTO origins SELECT DISTINCT f.buffer_id, o.buffer_id FROM buffer_segments f"
        " JOIN buffer_segments o ON o.segment_id = f.segment_id AND o.buffer_id < f.buffer_id"
    )
    op.create_table(
        "erasures",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("exemplar_id", sa.BigInteger, primary_key=True),
        sa.Column("crc32", sa.BigInteger, primary_key=True),
        sa.Column("length", sa.BigInteger, primary_key=True),
        sqlite_with_rowid=False,
    )
