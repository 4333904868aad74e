"""Verify, beside a service that goes on, and where nothing can be written."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memory_format import StorageError, encode_batch
from memory_service.store import Store
from memory_service.store.admin import verify as verifying
from memory_service.store.admin.on_disk import Report, StoreOnDisk
from memory_service.store.admin.online import Pace
from memory_service.store.admin.verify import verify
from memory_service.store.index import opening
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.transfer.outside import Outside
from tests.memory_service.helpers import Server, command, make_exemplar, push, put_buffer, whole_state
from tests.memory_service.test_backup import Load, filled


@pytest.fixture
def served(data: Path) -> Iterator[Store]:
    store = filled(data)
    yield store
    store.release()


def kinds(data: Path) -> set[str]:
    return {problem.kind for problem in verify(data).problems}


def test_a_store_in_use_is_verified_and_untouched(served: Store) -> None:
    before = whole_state(served.data)
    report = verify(served.data)
    assert report.sound, report.problems
    assert report.buffers == {buffer.name: buffer.stats().num_records for buffer in served.buffers()}
    assert whole_state(served.data) == before


def test_damage_is_found_while_it_is_served(served: Store) -> None:
    sealed = next(path for path in (served.data / "segments").iterdir() if path.suffix == ".zip")
    content = bytearray(sealed.read_bytes())
    content[30_000] ^= 1
    sealed.write_bytes(content)
    assert kinds(served.data) == {"damaged_record"}
    sealed.unlink()
    assert "missing_segment" in kinds(served.data)
    (served.data / "segments" / f"{'0' * 32}.open").write_bytes(b"whatever")
    assert "orphan" in kinds(served.data)


def replace_all(store: Store, turn: int) -> None:
    """Push others in place of all that the buffer holds."""
    buffer = store.buffer("b")
    buffer.delete(buffer.state.columns["exemplar_id"].tolist())
    buffer.push(encode_batch([make_exemplar(9, rank, pad=20_000, seed=100 * turn + rank) for rank in range(30 + turn)]))


def test_what_changes_meanwhile_is_no_damage(served: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each segment is read, all is replaced: files are gone, sealed, and new."""
    served.buffer("b").drop_snapshot("third")
    served.delete_buffer("f")
    turns = []
    read = StoreOnDisk.read

    def slowly(self: StoreOnDisk, state: SegmentState, report: Report) -> object:
        turns.append(state.stem)
        if len(turns) < 6:
            replace_all(served, len(turns))
        return read(self, state, report)

    monkeypatch.setattr(StoreOnDisk, "read", slowly)
    report = verify(served.data)
    assert report.sound, report.problems
    assert report.gone >= 2
    # What came in their place was looked at, too.
    assert set(turns) >= {path.name.split(".")[0] for path in (served.data / "segments").iterdir()}
    assert report.records >= report.buffers["b"]
    assert report.buffers == {"b": served.buffer("b").stats().num_records}


def test_a_buffer_that_is_rewritten_while_it_is_counted_is_counted_again(
    served: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.buffer("b").drop_snapshot("third")
    served.delete_buffer("f")
    turns: list[Any] = []
    examine: Any = verifying._examine_buffer

    def slowly(*arguments: object) -> None:
        turns.append(arguments)
        if len(turns) < 4:
            replace_all(served, len(turns))
        examine(*arguments)

    def never_the_same(*arguments: object) -> None:
        replace_all(served, 1)
        examine(*arguments)

    monkeypatch.setattr(verifying, "_examine_buffer", slowly)
    report = verify(served.data)
    assert report.sound, report.problems
    assert len(turns) == 4
    monkeypatch.setattr(verifying, "_examine_buffer", never_the_same)
    monkeypatch.setattr(verifying, "_MOST_TURNS", 3)
    with pytest.raises(StorageError, match="changes faster than it can be looked at"):
        verify(served.data)


def test_verify_under_load(data: Path) -> None:
    with Server(data) as server, server.client() as client, Load(str(client.base_url), 0.1) as load:
        for _ in range(2):
            code, said, error = command("verify", str(data), "--json")
            assert code == 0, (said, error)
            report = json.loads(said)
            assert report["sound"], report
            assert set(report["buffers"]) >= {"load-0", "load-1", "load-2"}
        assert load.errors == []


def test_nobody_begins_to_serve_a_store_that_is_verified(data: Path) -> None:
    filled(data).close()
    with Outside(data).held_if_free() as is_served:
        assert not is_served
        with pytest.raises(StorageError, match="held by another process"):
            Store(data)
    with Store(data), Outside(data).held_if_free() as is_served:
        assert is_served


def killed_store(data: Path) -> None:
    """A store with a log that nobody has carried over."""
    with Server(data) as server, server.client() as client:
        put_buffer(client)
        push(client, [make_exemplar(0, rank) for rank in range(5)])
        server.kill()
    assert (data / "index.sqlite-wal").stat().st_size > 0


def listing(data: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(data)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in [data, *data.rglob("*")]
        if not path.name.startswith("index.sqlite-shm")
    }


def test_a_read_only_medium(data: Path, tmp_path: Path) -> None:
    """Mounted so in a name space of its own; the log of a killed service is read as well."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare here")
    killed_store(data)
    shutil.copytree(data, tmp_path / "copy")
    (tmp_path / "copy" / "index.sqlite-shm").unlink()
    before = listing(tmp_path / "copy")
    script = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77; ! touch "$1/x" 2>&- || exit 77; '
        '"$2" -m memory_service verify --json "$1" && "$2" -m memory_service inspect --json "$1"'
    )
    done = subprocess.run(
        [unshare, "--mount", "sh", "-c", script, "sh", str(tmp_path / "copy"), sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    report, figures = map(json.loads, done.stdout.splitlines())
    assert (report["sound"], report["buffers"]) == (True, {"b": 5})
    assert [one["stats"]["num_records"] for one in figures["buffers"]] == [5]
    assert listing(tmp_path / "copy") == before


def test_where_sqlite_cannot_write_the_log_is_read_from_a_copy(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_store(data)
    real = opening.connect
    monkeypatch.setattr(opening, "connect", lambda path: Refused() if path.parent == data else real(path))
    monkeypatch.setattr(opening, "_can_write", lambda _: False)
    before = listing(data)
    assert verify(data).buffers == {"b": 5}
    assert {name for name, of in listing(data).items() if before.get(name) != of} <= {".", "lock"}


class Refused:
    """A connection as SQLite gives it where its files cannot be opened."""

    def execute(self, _: str) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    def close(self) -> None: ...


def test_the_pace_is_held() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(100, clock=lambda: now[0], sleep=sleep)
    pace.spent(50)
    now[0] += 0.25
    pace.spent(50)
    # A pause is not made up for.
    now[0] += 100
    pace.spent(100)
    pace.spent(100)
    assert slept == [0.5, 0.25, 1.0]
    Pace(None, clock=lambda: now[0], sleep=sleep).spent(10**9)
    assert len(slept) == 3
