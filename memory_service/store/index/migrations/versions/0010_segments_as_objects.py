"""Segments may be objects: open ones are kept in the index then, and uploads have a deadline.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("intents", sa.Column("upload_until", sa.BigInteger))
    op.create_table(
        "open_bodies",
        sa.Column("segment_id", _Id, sa.ForeignKey("segments.id"), primary_key=True),
        sa.Column("first", sa.Integer, primary_key=True),
        sa.Column("bodies", sa.LargeBinary, nullable=False),
    )
