"""Learners may say in which phase they are.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "phases",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("learner_id", sa.String(64), primary_key=True),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("entered_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
