"""Bytes of each learner in all buffers together, counted where replicas keep to a quota.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "learner_bytes",
        sa.Column("learner_id", sa.String(64), primary_key=True),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("most_bytes", sa.BigInteger),
        sa.CheckConstraint("num_bytes >= 0", name="learner_bytes_counted"),
        sa.CheckConstraint("num_bytes <= most_bytes", name="within_learner_quota"),
        sqlite_with_rowid=False,
    )
    op.add_column("store", sa.Column("learners_counted", sa.Boolean, nullable=False, server_default=sa.false()))
