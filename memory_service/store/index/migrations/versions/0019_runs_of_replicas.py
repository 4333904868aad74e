"""Replicas say by which start of theirs they are there: so one whose directory was copied is told from its copy.

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("replicas", sa.Column("run", sa.String(32), nullable=False, server_default="-"))
