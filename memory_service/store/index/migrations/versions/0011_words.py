"""A buffer may have the words of its vocabulary.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "vocabularies",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("words", sa.LargeBinary, nullable=False),
    )
