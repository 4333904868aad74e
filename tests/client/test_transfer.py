"""Buffers as files: whole ones from a real service, broken ones from one that breaks off."""

from __future__ import annotations

import io
import os
import stat
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from client import Buffer, MemoryClient, ProtocolError, ServiceError, ServiceUnavailableError
from memory_format import ConflictError, ExemplarMemoryError, FormatError, NotFoundError, read_records
from memory_format.api.forms import ExportForm
from tests.client.samples import make, make_many
from tests.client.script import INFO, LOST, Script, client_of, problem


def a_zip(size: int = 3000) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("zarr.json", bytes(size))
    return file.getvalue()


ZIP = a_zip()


def test_a_buffer_goes_to_another_one_by_file(memory: MemoryClient, buffer: Buffer, tmp_path: Path) -> None:
    ids = buffer.push(make_many(12)).exemplar_ids
    buffer.take_snapshot("then")
    buffer.delete(ids[0])
    path = buffer.export(tmp_path / "now.zip")
    assert [entry.name for entry in tmp_path.iterdir()] == ["now.zip"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert "zarr.json" in archive.namelist()
    copy = memory.import_buffer("imported", path)
    assert list(copy.records()) == list(buffer.records())
    assert (copy.info().version, copy.info().budget_bytes) == (buffer.info().version, buffer.info().budget_bytes)
    assert memory.import_buffer("imported-then", buffer.export(str(path), snapshot="then")).info().num_records == 12

    with pytest.raises(ConflictError) as conflict:
        memory.import_buffer("imported", path)
    assert conflict.value.code == "buffer_exists"
    held = path.read_bytes()
    with pytest.raises(NotFoundError) as missing:
        buffer.export(path, snapshot="never")
    assert missing.value.code == "unknown_snapshot"
    assert path.read_bytes() == held, "a failed export leaves what is there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["now.zip"]


@pytest.mark.parametrize(
    ("name", "form"), [("x.parquet", None), ("x.arrows", None), ("x.arrow", None), ("x", "parquet")]
)
def test_a_buffer_is_a_table_where_its_file_is_called_so(
    buffer: Buffer, tmp_path: Path, name: str, form: ExportForm | None
) -> None:
    buffer.push(make_many(3))
    path = buffer.export(tmp_path / name, form=form, png=True)
    table = {
        "x.arrows": lambda: pa.ipc.open_stream(path.read_bytes()).read_all(),
        "x.arrow": lambda: pa.ipc.open_file(path.read_bytes()).read_all(),
    }.get(name, lambda: parquet.read_table(path))()
    assert table["body"].to_pylist() == [record.body for record in buffer.records()]
    assert [png[:4] for png in table["png"].to_pylist()] == [b"\x89PNG"] * 3
    held = path.read_bytes()
    for wrong in ({"form": "csv"}, {"form": "zarr", "png": True}):
        with pytest.raises(FormatError, match="parquet") as refused:
            buffer.export(path, **wrong)
        assert refused.value.code == "invalid_query"
    assert path.read_bytes() == held


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.arrows"])
def test_a_table_comes_back_as_the_buffer_that_it_was(
    memory: MemoryClient, buffer: Buffer, tmp_path: Path, name: str
) -> None:
    buffer.push(make_many(5))
    path = buffer.export(tmp_path / name, png=name == "x.parquet")
    copy = memory.import_buffer(f"{buffer.name}-again", path)
    assert list(copy.records()) == list(buffer.records())
    assert replace(copy.info(), name=buffer.name) == buffer.info()


def test_a_table_that_was_written_again_comes_back(memory: MemoryClient, buffer: Buffer, tmp_path: Path) -> None:
    buffer.push(make_many(5))
    table = parquet.read_table(buffer.export(tmp_path / "x.parquet"))
    path = tmp_path / "again.parquet"
    parquet.write_table(table.filter(pc.field("class_id") == 1), path, compression="zstd")
    found = memory.import_buffer(f"{buffer.name}-again", path).records()
    assert list(found) == list(buffer.records(class_id=1))
    memory.delete_buffer(f"{buffer.name}-again")

    parquet.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(FormatError, match=r"again.parquet: .*read_records") as refused:
        memory.import_buffer(f"{buffer.name}-again", path)
    assert refused.value.code == "invalid_export"
    other = memory.create_buffer(f"{buffer.name}-again", budget_bytes=100_000)
    assert other.push(read_records(path)).kept == 5
    assert other.push(read_records(table.slice(1, 2))).kept == 2
    bodies = [record.body for record in buffer.records()]
    assert [record.body for record in other.records()] == bodies + bodies[1:3]


NO_TABLES: dict[str, tuple[Callable[[pa.Table], Any], str]] = {
    "a column more": (lambda table: table.append_column("note", table["rank"]), "and not note"),
    "a column less": (lambda table: table.drop_columns("rank"), "expected columns"),
    "nulls": (
        lambda table: table.drop_columns("score").append_column("score", pa.nulls(len(table), pa.float32())),
        "score has nulls",
    ),
    "too large": (
        lambda table: table.drop_columns("phase").append_column("phase", pa.array([2**20] * len(table))), "column phase"
    ),
    "another version": (lambda table: table.replace_schema_metadata({"exemplar_memory_wire": "3"}), "version 3"),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_TABLES)
def test_a_table_that_is_none_of_records_is_refused(buffer: Buffer, tmp_path: Path, what: str) -> None:
    buffer.push(make_many(3))
    make, words = NO_TABLES[what]
    table = make(parquet.read_table(buffer.export(tmp_path / "x.parquet")))
    parquet.write_table(table, tmp_path / "y.parquet")
    for source in (table, tmp_path / "y.parquet"):
        with pytest.raises(FormatError, match=words) as refused:
            list(read_records(source))
        assert refused.value.code == "invalid_export"


@pytest.mark.parametrize("content", [b"", b"id,class", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff", ZIP])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FormatError, match="no table of records") as refused:
        list(read_records(tmp_path / "x"))
    assert refused.value.code == "invalid_export"
    with pytest.raises(FileNotFoundError):
        list(read_records(tmp_path / "absent"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 and more", b"ARROW1\0\0" + bytes(20), ZIP])
def test_a_table_that_is_not_whole_is_none(tmp_path: Path, content: bytes) -> None:
    for name in ("x.parquet", "x.arrow", "x.arrows"):
        with client_of(Script(httpx.Response(200, content=content))) as memory, pytest.raises(ProtocolError):
            Buffer(memory, "b").export(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK no zip", ZIP], ids=["nothing", "no-zip", "another-zip"])
def test_what_is_no_export_is_refused(memory: MemoryClient, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "it.zip"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        memory.import_buffer("never", path)
    assert caught.value.code == "invalid_export"
    with pytest.raises(FileNotFoundError):
        memory.import_buffer("never", tmp_path / "absent.zip")
    assert "never" not in [info.name for info in memory.buffers()]


def test_neither_way_is_the_file_in_memory(memory: MemoryClient, tmp_path: Path) -> None:
    buffer = memory.create_buffer("sizeable", budget_bytes=20_000_000)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 240, 240, 3), dtype=np.uint8)
    buffer.push(make(number, patches=pixels, keep_mask=np.array([[True, True]])) for number in range(30))
    tracemalloc.start()
    path = buffer.export(tmp_path / "sizeable.zip")
    memory.import_buffer("sizeable-again", path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 10_000_000
    assert peak < 5_000_000


def test_progress_is_shown_where_asked_for(
    memory: MemoryClient,
    buffer: Buffer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tqdm")
    buffer.push(make_many(3))
    memory.import_buffer("quiet", buffer.export(tmp_path / "quiet.zip"))
    assert capfd.readouterr().err == ""
    path = buffer.export(tmp_path / "shown.zip", progress=True)
    assert "B" in capfd.readouterr().err
    memory.import_buffer("shown", path, progress=True)
    assert "100%" in capfd.readouterr().err
    # A table is made a stream before any of it is sent.
    table, told = buffer.export(tmp_path / "shown.parquet"), list[tuple[int | None, float]]()
    monkeypatch.setattr("tqdm.tqdm.update", lambda bar, count: told.append((bar.total, count)))
    memory.import_buffer("table", table, progress=True)
    (total, made), sent = told
    assert total is None
    assert made > 0
    assert sent == (sent[0], sent[0])


class Breaks(httpx.SyncByteStream):
    """A body that breaks off."""

    def __iter__(self) -> Iterator[bytes]:
        yield ZIP[:100]
        raise httpx.ReadError("reset")


class Streams(httpx.BaseTransport):
    """Answers whose bodies come as they are told to."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.answers = list(answers)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1":
            return httpx.Response(200, json=INFO)
        return self.answers.pop(0)


def test_an_export_that_broke_off_starts_over(tmp_path: Path) -> None:
    for length in ({}, {"Content-Length": str(len(ZIP))}):
        whole = httpx.Response(200, content=ZIP, headers=length)
        with client_of(Streams(httpx.Response(200, stream=Breaks()), whole)) as memory:
            path = Buffer(memory, "b").export(tmp_path / "it.zip")
        assert path.read_bytes() == ZIP


def test_an_export_has_its_name_when_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order, after a power cut too: the file's content, its name, the folder that holds the name."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(found.st_mode) else f"file of {found.st_size}")
        fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    with client_of(Streams(httpx.Response(200, content=ZIP))) as memory:
        Buffer(memory, "b").export(tmp_path / "it.zip")
    assert done == [f"file of {len(ZIP)}", "name", "folder"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b"<html>welcome</html>"),
        httpx.Response(200, content=ZIP[:-1]),
        httpx.Response(200, content=ZIP[:1000]),
        httpx.Response(200, content=ZIP[:1000], headers={"Content-Length": str(len(ZIP))}),
        httpx.Response(200, content=ZIP, headers={"Content-Length": str(len(ZIP) + 1)}),
    ],
)
def test_an_export_that_is_not_whole_is_none(tmp_path: Path, answer: httpx.Response) -> None:
    path = tmp_path / "it.zip"
    path.write_bytes(b"what was there")
    with client_of(Script(answer)) as memory, pytest.raises(ProtocolError):
        Buffer(memory, "b").export(path)
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_that_cannot_be_had_leaves_nothing(tmp_path: Path) -> None:
    for answer in (LOST[0], LOST[1], problem(500, "corrupt_record"), httpx.ReadTimeout("late")):
        with client_of(Script(answer)) as memory, pytest.raises((ServiceError, ExemplarMemoryError)):
            Buffer(memory, "b").export(tmp_path / "it.zip")
    with client_of(Script(httpx.Response(200, content=ZIP))) as memory, pytest.raises(FileNotFoundError):
        Buffer(memory, "b").export(tmp_path / "nowhere" / "it.zip")
    assert list(tmp_path.iterdir()) == []


def test_an_import_is_sent_whole_again_only_where_it_was_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "it.zip"
    path.write_bytes(ZIP)
    script = Script(problem(429, "too_busy", headers={"Retry-After": "0"}), httpx.Response(201, json={}))
    with client_of(script) as memory:
        assert memory.import_buffer("b", path).name == "b"
    assert [request.content for request in script.asked] == [ZIP, ZIP]
    for request in script.asked:
        assert request.headers["Content-Type"] == "application/zip"
        assert request.headers["Content-Length"] == str(len(ZIP))
        assert "Transfer-Encoding" not in request.headers
    for answer in (LOST[1], problem(503, "storage_failed")):
        script = Script(answer)
        with client_of(script) as memory, pytest.raises((ServiceUnavailableError, ExemplarMemoryError)):
            memory.import_buffer("b", path)
        assert len(script.asked) == 1


def test_closing_ends_a_transfer(tmp_path: Path) -> None:
    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield bytes(1000)
                memory.stop()

    answer = httpx.Response(200, stream=Endless())
    with client_of(Streams(answer)) as memory, pytest.raises(ServiceUnavailableError, match="closed"):
        Buffer(memory, "b").export(tmp_path / "it.zip")
    assert list(tmp_path.iterdir()) == []
