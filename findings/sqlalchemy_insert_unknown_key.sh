#!/usr/bin/env bash
# SQLAlchemy 2.1.9: insert() passes over keys that are no columns, and over columns that only a later row names.
#
# What: rows as dictionaries into a table with the columns id and score: one with the key "scores", one in which only the second row has
#   a score; as parameters of execute and as values() of the statement. `update` with such parameters.
# Guess: CompileError "Unconsumed column names: scores", as one knows it; and for rows that differ, an error or NULL where one
#   lacks a key.
# Seen: the error comes from values(scores=...) alone. As parameters, of one row or of many, a name that is misspelt is dropped and
#   NULL is stored. A score that the first row lacks is dropped from all rows, in both ways; a key that a later row lacks
#   is an error. update() drops unknown parameters likewise, if there is one that it knows.
# For this project: rows of the index are dictionaries made from dataclasses, where a new field without its column would be lost.
#   In tests every insert and update is looked at, and fails where a key is no column (the conftest.py of the service's tests).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check SQLAlchemy==2.1.9

"$folder/venv/bin/python" -W error -I - <<'PYTHON'
import sqlalchemy as sa

metadata = sa.MetaData()
rows = sa.Table("rows", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("score", sa.Float))
insert = rows.insert()
engine = sa.create_engine("sqlite://")
metadata.create_all(engine)


def stored(*given):
    """What is in the table behind these calls of execute, or the error."""
    with engine.connect() as connection:
        connection.execute(rows.delete())
        try:
            for statement, *parameters in given:
                connection.execute(statement, *parameters)
        except sa.exc.StatementError as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
        except sa.exc.CompileError as error:
            return f"CompileError: {error}"
        return [tuple(row) for row in connection.execute(rows.select().order_by(rows.c.id))]


misspelt, later, earlier = {"id": 1, "scores": 0.5}, [{"id": 1}, {"id": 2, "score": 0.5}], [{"id": 1, "score": 0.5}, {"id": 2}]
SEEN = {
    "execute(insert, misspelt)": (stored((insert, misspelt)), [(1, None)]),
    "execute(insert, [misspelt])": (stored((insert, [misspelt])), [(1, None)]),
    "execute(insert.values(misspelt))": (stored((insert.values(misspelt),)), "CompileError: Unconsumed column names: scores"),
    "execute(insert, the second has a score)": (stored((insert, later)), [(1, None), (2, None)]),
    "execute(insert.values(the second has a score))": (stored((insert.values(later),)), [(1, None), (2, None)]),
    "execute(insert, the first has a score)": (stored((insert, earlier)), None),
    "execute(update, score and a misspelt one)": (
        stored((insert, {"id": 1}), (rows.update(), {"score": 0.1, "scores": 0.5})),
        [(1, 0.1)],
    ),
}
print(f"SQLAlchemy {sa.__version__}")
print("expected: an error for each name that is no column, and (2, 0.5) where the second row has a score")
for name, (found, described) in SEEN.items():
    print(f"seen:     {name}: {found}")
    if described is None:
        assert str(found).startswith("StatementError"), f"changed: {name}: {found}"
    else:
        assert found == described, f"changed: {name}: {found}"
print("source:   sqlalchemy/sql/crud.py, _get_crud_params: unconsumed names are looked for in the statement's own values; the columns are")
print("          those that the first set of parameters names")
print("as described")
PYTHON
