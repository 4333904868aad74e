"""Arrays of a stored exemplar can be replaced: which record is which exemplar.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "revisions",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
        sa.Column("stored_id", sa.BigInteger, primary_key=True),
        sa.Column("exemplar_id", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("pushed_crc32", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
