"""Idempotency keys belong to a learner: two that name their pushes alike do not meet.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # A primary key grows in a new table only.
    op.rename_table("pushes", "old_pushes")
    op.create_table(
        "pushes",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("learner_id", sa.String(64), primary_key=True, server_default=sa.text("''")),
        sa.Column("idempotency_key", sa.String(128), primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    columns = "buffer_id, idempotency_key, digest, answer, created_at"
    op.execute(f"INSERT INTO pushes ({columns}) SELECT {columns} FROM old_pushes")
    op.drop_table("old_pushes")
