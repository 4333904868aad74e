#!/usr/bin/env bash
# Alembic 1.20.1, SQLAlchemy 2.1.9: a batch operation in SQLite gives deleted ids out again, and tells "A" from "a" from then on.
#
# What: a table made by SQLAlchemy with sqlite_autoincrement=True and a unique name with collation NOCASE. A batch operation
#   changes another column to NOT NULL. Then the newest row is deleted and one is added, and "A" is added where "a" is.
# Guess: only the named column changes. The table is copied, as SQLite cannot alter it, and is as it was otherwise.
# Seen: AUTOINCREMENT and the collation are gone without a warning: the new row has the id of the deleted one, and "A" and "a"
#   are two names. CHECK constraints, partial indexes and ON DELETE CASCADE stay.
# For this project: ids are never given twice (sqlite_autoincrement in store/index/tables.py), and what processes remember relies
#   on it. So migrations add columns and tables and use no batch operations; one that had to would name both in copy_from=.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check alembic==1.20.1 sqlalchemy==2.1.9

"$folder/venv/bin/python" -I -W error - <<'PYTHON'
from importlib.metadata import version

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations


def after(change):
    """The id of a row that follows a deleted one, whether a name in capitals is refused, and what else is kept."""
    engine, metadata = sa.create_engine("sqlite://"), sa.MetaData()
    table = sa.Table(
        "table",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(collation="NOCASE"), unique=True),
        sa.Column("count", sa.Integer),
        sa.Column("parent", sa.ForeignKey("table.id", ondelete="CASCADE")),
        sa.CheckConstraint("count > 0", name="positive"),
        sqlite_autoincrement=True,
    )
    sa.Index("partial", table.c.count, sqlite_where=table.c.count > 3)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(table.insert(), [{"name": "a", "count": 5}, {"name": "b", "count": 6}])
        change(Operations(MigrationContext.configure(connection)), table)
        connection.execute(table.delete().where(table.c.name == "b"))
        new = connection.execute(table.insert().returning(table.c.id), {"name": "c", "count": 7}).scalar_one()
        try:
            connection.execute(table.insert(), {"name": "A", "count": 8})
            refused = False
        except sa.exc.IntegrityError:
            refused = True
        sql = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'table'").scalar_one()
        kept = [word for word in ("CHECK (count > 0)", "ON DELETE CASCADE") if word in sql]
        return new, refused, len(kept), [index["name"] for index in sa.inspect(connection).get_indexes("table")]


def batch(operations, table):
    with operations.batch_alter_table("table") as changed:
        changed.alter_column("count", nullable=False)


def batch_from(operations, table):
    with operations.batch_alter_table("table", copy_from=table) as changed:
        changed.alter_column("count", nullable=False)


found = {
    "no change": after(lambda operations, table: None),
    "batch": after(batch),
    "batch, copy_from=": after(batch_from),
}
print(f"alembic {version('alembic')}, SQLAlchemy {version('sqlalchemy')}")
print("expected: id 3, and 'A' refused, each time")
for name, (new, refused, *_) in found.items():
    print(f"seen:     {name}: id {new}, 'A' {'refused' if refused else 'taken'}")
print("source:   ApplyBatchImpl in alembic/operations/batch.py makes the new table from SQLAlchemy's reflection; get_columns in")
print("          sqlalchemy/dialects/sqlite/base.py reflects neither a collation nor AUTOINCREMENT")
everything = (2, ["partial"])
assert found["no change"] == (3, True, *everything), "changed: without a batch"
assert found["batch"] == (2, False, *everything), "changed: batch"
assert found["batch, copy_from="] == (3, True, *everything), "changed: copy_from"
print("as described")
PYTHON
