"""A buffer knows whose key made it.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("buffers", sa.Column("made_by", sa.String(80), nullable=False, server_default=sa.text("''")))
