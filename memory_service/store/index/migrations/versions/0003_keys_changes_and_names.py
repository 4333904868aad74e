"""What a buffer draws by is stored with it, and is not its name any more: it goes along to forks and imports.

The index says which store it is of and how many changes it has seen, and names segment files before they are made
and until they are gone.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("buffers", sa.Column("draw_key", sa.String(63), nullable=False, server_default=sa.text("''")))
    # These drew by their names, and go on to: what they gave is what they give.
    op.execute("UPDATE buffers SET draw_key = name")
    op.add_column("buffers", sa.Column("max_budget_bytes", sa.BigInteger))
    # What has grown beyond today's usual ceiling keeps what it has.
    op.execute(
        "UPDATE buffers SET max_budget_bytes = budget_bytes WHERE full_samples_per_class IS NOT NULL AND num_classes"
        " IS NULL AND budget_bytes > 1000 * full_samples_per_class * full_sample_bytes"
    )
    store = op.create_table(
        "store",
        sa.Column("id", _Id, primary_key=True),
        sa.Column("store_id", sa.String(32), nullable=False),
        sa.Column("changes", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(store, [{"id": 1, "store_id": uuid.uuid4().hex, "changes": 0}])
    op.create_table(
        "intents",
        sa.Column("stem", sa.String(32), primary_key=True),
        sa.Column("leaving", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
