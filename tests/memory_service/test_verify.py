"""Every kind of damage is found, said, and repaired without losing anything else."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from memory_format import Record, StorageError, decode_batch, encode_batch
from memory_format.api.runs import RunReport
from memory_service.store import Store
from memory_service.store.admin.on_disk import Report
from memory_service.store.admin.repair import repair
from memory_service.store.admin.verify import verify
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from tests.memory_service.helpers import command, contents, make_exemplar, whole_state
from tests.memory_service.test_runs import report as run_report

OPTIONS = Options(segment_bytes=300_000)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two buffers, one a fork: sealed segments and an open one, dead records, a snapshot."""
    data = tmp_path / "store"
    store = Store(data, OPTIONS)
    buffer, _ = store.create_buffer("b", budget_bytes=700_000, disk_limit_bytes=1_200_000)
    for phase in range(6):
        buffer.push(encode_batch([make_exemplar(phase, rank, pad=20_000, seed=99 * phase + rank) for rank in range(8)]))
        if phase == 3:
            buffer.take_snapshot("third")
            store.fork("b", "f", snapshot="third")
    buffer.update([1, 2], scores=[0.5, 0.25])
    store.release()
    return data


def records_of(data: Path, buffer: str, snapshot: str | None = None) -> list[Record]:
    store = Store(data, OPTIONS)
    try:
        encoded, _, _ = store.buffer(buffer).query_encoded(Query(limit=1000), snapshot=snapshot)
        return decode_batch(bytes(encoded))
    finally:
        store.release()


def sql(data: Path, statement: str, *parameters: object) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(data / "index.sqlite")
    with connection:
        rows = connection.execute(statement, parameters).fetchall()
    connection.close()
    return rows


def file_of(data: Path, *, sealed: bool) -> Path:
    suffix = ".zarr.zip" if sealed else ".open"
    # The largest: one of the open segments holds a single record, too short for the damage done below, and the names
    # are drawn, so the first by name would be that one now and then.
    return max(
        (path for path in (data / "segments").iterdir() if path.name.endswith(suffix)),
        key=lambda path: path.stat().st_size,
    )


def kinds(report: Report) -> set[str]:
    return {problem.kind for problem in report.problems}


def test_a_sound_store_is_sound_and_untouched(store: Path) -> None:
    before = whole_state(store)
    report = verify(store)
    assert report.sound, report.problems
    assert set(report.buffers) == {"b", "f"}
    assert report.records >= report.buffers["b"]
    assert report.bytes_checked > 500_000
    assert whole_state(store) == before
    # Nothing to repair: nothing is changed.
    repair(store)
    assert whole_state(store) == before


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def damaged_body(data: Path, *, sealed: bool) -> None:
    flip(file_of(data, sealed=sealed), 30_000)


def damaged_column(data: Path) -> None:
    path = file_of(data, sealed=True)
    # The first copy of the name is that of the entry itself; its content follows.
    flip(path, path.read_bytes().index(b"class_id/c/0") + len("class_id/c/0") + 3)


def cut(data: Path, *, sealed: bool) -> None:
    path = file_of(data, sealed=sealed)
    path.write_bytes(path.read_bytes()[:-25_000])


def missing(data: Path, *, sealed: bool) -> None:
    file_of(data, sealed=sealed).unlink()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a body in a sealed segment": lambda data: damaged_body(data, sealed=True),
    "a body in an open segment": lambda data: damaged_body(data, sealed=False),
    "the columns of a sealed segment": damaged_column,
    "a sealed segment cut short": lambda data: cut(data, sealed=True),
    "an open segment cut short": lambda data: cut(data, sealed=False),
    "a sealed segment missing": lambda data: missing(data, sealed=True),
    "an open segment missing": lambda data: missing(data, sealed=False),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_said_and_repaired(store: Path, damage: str) -> None:
    names = (("b", None), ("b", "third"), ("f", None))
    before = {name: records_of(store, *name) for name in names}
    DAMAGE[damage](store)
    state = whole_state(store)
    report = verify(store)
    assert not report.sound
    assert kinds(report) & {"damaged_record", "damaged_segment", "missing_segment"}
    assert whole_state(store) == state, "verify changes nothing"

    repaired = repair(store)
    assert repaired.problems == report.problems
    after = verify(store)
    assert after.sound, after.problems
    assert repaired.lost or repaired.lost_in_snapshots or repaired.unknown_records
    for name in names:
        kept = {record.exemplar_id: record for record in records_of(store, *name)}
        was = {record.exemplar_id: record for record in before[name]}
        lost = set(was) - set(kept)
        # What is still there is what was there, and what is gone was said.
        assert contents(kept.values()) == contents(was[id_] for id_ in kept)
        assert [record.score for record in kept.values()] == [was[id_].score for id_ in kept]
        said = set(repaired.lost.get(name[0], [])) | set(repaired.lost_in_snapshots.get(name[0], []))
        assert lost <= said or repaired.unknown_records >= len(lost)
    if "body" in damage:
        assert repaired.unknown_records == 0
        assert sum(map(len, repaired.lost.values())) + sum(map(len, repaired.lost_in_snapshots.values())) in (1, 2)
    if "missing" not in damage:
        assert [Path(name).exists() for name in repaired.quarantined] == [True]
    # It goes on.
    opened = Store(store, OPTIONS)
    opened.buffer("b").push(encode_batch([make_exemplar(9, 0)]))
    opened.close()
    assert verify(store).sound


def test_a_damaged_store_is_not_served_before_it_is_repaired(store: Path) -> None:
    missing(store, sealed=True)
    with pytest.raises(StorageError, match="memory-service repair"):
        Store(store, OPTIONS)
    repair(store)
    Store(store, OPTIONS).close()


def test_wrong_counters(store: Path) -> None:
    sql(store, "UPDATE buffers SET bytes_used = bytes_used - 7, num_records = num_records + 1 WHERE name = 'b'")
    sql(store, "UPDATE snapshots SET num_records = num_records + 1")
    report = verify(store)
    assert kinds(report) == {"wrong_counter", "wrong_snapshot"}
    with pytest.raises(StorageError, match="counters"):
        Store(store, OPTIONS)
    repair(store)
    assert verify(store).sound
    Store(store, OPTIONS).close()


def test_an_open_segment_that_is_missing_is_said_and_gone_on_without(tmp_path: Path) -> None:
    data = tmp_path / "store"
    opened = Store(data, OPTIONS)
    buffer, _ = opened.create_buffer("b", budget_bytes=100_000)
    buffer.push(encode_batch([make_exemplar(0, rank) for rank in range(3)]))
    opened.release()
    file_of(data, sealed=False).unlink()
    report = verify(data)
    assert kinds(report) == {"missing_segment"}
    assert report.lost == {"b": [1, 2, 3]}
    repair(data)
    assert verify(data).sound
    assert records_of(data, "b") == []


def test_an_orphan_is_put_aside(store: Path) -> None:
    orphan = store / "segments" / ("0" * 32 + ".zarr.zip")
    orphan.write_bytes(b"whatever")
    assert kinds(verify(store)) == {"orphan"}
    report = repair(store)
    assert not orphan.exists()
    assert [Path(name).read_bytes() for name in report.quarantined] == [b"whatever"]


def test_damaged_documents_are_put_aside(store: Path) -> None:
    """And no others."""
    given = RunReport.model_validate_json(json.dumps(run_report()))
    with Store(store, OPTIONS) as opened:
        for run_id in ("good", "bad"):
            opened.runs.put(run_id, given, 1.0)
        for id_ in (1, 2):
            opened.erasures.erase(opened.buffer("b"), [id_])
        kept = opened.erasures.receipts.page(5).receipts
    assert verify(store).sound
    bad = [store / "runs" / "bad.json", store / "receipts" / f"{kept[1].receipt_id}.json"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-9])
    said = verify(store)
    wanted = [("damaged_report", "runs/bad"), ("damaged_receipt", f"receipts/{kept[1].receipt_id}")]
    assert [(problem.kind, problem.where) for problem in said.problems] == wanted
    repaired = repair(store)
    assert repaired.problems == said.problems
    assert repaired.quarantined == [str(store / "quarantine" / path.name) for path in bad]
    assert verify(store).sound
    with Store(store, OPTIONS) as opened:
        assert [run.run_id for run in opened.runs.page(5).runs] == ["good"]
        assert opened.erasures.receipts.page(5).receipts == kept[:1]


def test_what_is_not_the_store_s_is_left_alone(store: Path) -> None:
    foreign = store / "segments" / ".DS_Store"
    foreign.write_bytes(b"whatever")
    report = verify(store)
    assert report.sound
    assert report.foreign == [".DS_Store"]
    assert repair(store).quarantined == []
    assert foreign.read_bytes() == b"whatever"
    Store(store, OPTIONS).close()
    assert foreign.exists()


def test_bytes_that_no_change_committed_are_no_damage(store: Path) -> None:
    before = contents(records_of(store, "b"))
    with file_of(store, sealed=False).open("ab") as file:
        file.write(b"half a record")
    report = verify(store)
    assert kinds(report) == {"loose_end"}
    assert report.lost == {}
    assert contents(records_of(store, "b")) == before


def test_a_damaged_index_is_made_again(store: Path) -> None:
    content = bytearray((store / "index.sqlite").read_bytes())
    for at in range(4096 * 3, len(content), 4096):
        content[at : at + 40] = b"\xff" * 40
    (store / "index.sqlite").write_bytes(content)
    with pytest.raises(StorageError, match="memory-service repair"):
        Store(store, OPTIONS)
    report = repair(store)
    assert next(problem.kind for problem in report.problems) == "damaged_index"
    assert (store / "quarantine" / "index.sqlite").read_bytes() == content
    assert report.made == ["b"]
    assert verify(store).sound
    assert records_of(store, "b")


def test_the_commands(store: Path, tmp_path: Path) -> None:
    code, said, _ = command("verify", str(store))
    assert code == 0
    assert said.strip().endswith("sound")
    damaged_body(store, sealed=True)
    code, said, _ = command("verify", str(store))
    assert code == 1
    assert "damaged_record: " in said
    assert "1 records lost" in said
    assert said.strip().endswith("; 1 problem")
    code, said, _ = command("verify", "--json", str(store))
    document = json.loads(said)
    assert (code, document["sound"]) == (1, False)
    assert document["problems"][0]["kind"] == "damaged_record"
    code, said, _ = command("repair", str(store))
    assert code == 0
    assert "put aside: " in said
    assert said.strip().endswith("; 1 problem, repaired")
    assert command("verify", str(store))[0] == 0
    code, _, error = command("verify", str(tmp_path / "nowhere"))
    assert (code, "no store" in error) == (2, True)
    code, _, error = command("verify", str(store), "--max-rate", "0")
    assert (code, "more than 0" in error) == (2, True)
    opened = Store(store, OPTIONS)
    code, said, _ = command("verify", str(store))
    assert (code, said.strip().endswith("sound")) == (0, True)
    for arguments, said in (
        (["repair", str(store)], f"held by another process (pid {os.getpid()}): stop it first\n"),
        (["export", "b", str(tmp_path / "x.zip"), "--data", str(store)], ": stop it first, or ask it over HTTP\n"),
    ):
        code, _, error = command(*arguments)
        assert (code, error.endswith(said)) == (2, True), error
    opened.release()
