"""Replicas count the changes of a buffer.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("buffers", sa.Column("changes", sa.BigInteger, nullable=False, server_default=sa.text("0")))
