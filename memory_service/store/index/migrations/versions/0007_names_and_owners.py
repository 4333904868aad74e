"""Classes have names, a vocabulary has one, and a buffer may belong to a run.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name, length in (("vocabulary_name", 200), ("owner", 64)):
        op.add_column("buffers", sa.Column(name, sa.String(length), nullable=False, server_default=sa.text("''")))
    op.create_table(
        "class_names",
        sa.Column("buffer_id", _Id, sa.ForeignKey("buffers.id"), primary_key=True),
        sa.Column("class_id", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.UniqueConstraint("buffer_id", "name", name="a_name_a_class"),
        sqlite_with_rowid=False,
    )
