"""Of a fork it is known which exemplars it shares with its source, and what is being erased from that is from it, too.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("origins", sa.Column("next_exemplar_id", sa.BigInteger))
    # Of forks that were made while it waited, it was not noted.
    op.execute(
        "INSERT INTO erasures (buffer_id, exemplar_id, crc32, length)"
        " SELECT o.buffer_id, e.exemplar_id, e.crc32, e.length FROM origins o"
        " JOIN erasures e ON e.buffer_id = o.origin_id WHERE true"
        " ON CONFLICT DO NOTHING"
    )
