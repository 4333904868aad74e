"""A buffer's records have patches of one size, and token ids of one vocabulary.

What buffers of earlier versions hold says its patch size itself, and nothing of its vocabulary.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("buffers", sa.Column("patch_px", sa.Integer))
    op.add_column("buffers", sa.Column("vocabulary", sa.String(32)))
