"""A buffer may keep a share of its budget for each learner.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("buffers", sa.Column("learner_floor", sa.Double))
