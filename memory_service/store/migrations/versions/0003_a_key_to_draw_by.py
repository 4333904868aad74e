"""What a buffer draws by is stored with it, and is not its name any more: it goes along to forks and imports.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("buffers", sa.Column("draw_key", sa.String(63), nullable=False, server_default=sa.text("''")))
    # These drew by their names, and go on to: what they gave is what they give.
    op.execute("UPDATE buffers SET draw_key = name")
