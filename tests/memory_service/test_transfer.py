"""A buffer as one file and back: in the store, over HTTP, from the command line."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from copy import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorstore
import zarr
from pyarrow import parquet

from memory_format import ConflictError, FormatError, NotFoundError, encode_batch
from memory_format.api.forms import FORMS
from memory_service.store import Store
from memory_service.store.pure.model import Options
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments import layout
from memory_service.store.transfer.export import PIECE_BYTES, BufferDescription
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    Server,
    all_records,
    assert_problem,
    command,
    contents,
    make_exemplar,
    push,
    put_buffer,
    whole_state,
)

ZIP = {"Content-Type": "application/zip"}


def fill(client: httpx.Client) -> None:
    """Phases that evict, snapshots, and scores that were changed."""
    put_buffer(client, 6000, description="a tëst", retain_snapshots=5)
    for phase in range(4):
        batch = [
            make_exemplar(phase, rank, phase=phase, learner_id=f"l{phase % 2}", pad=30 * rank, codec="webp")
            for rank in range(8)
        ]
        push(client, batch)
        assert client.put(f"/v1/buffers/b/snapshots/phase-{phase}").status_code == 201
    listed = client.get("/v1/buffers/b/exemplars").json()["exemplars"]
    ids = [exemplar["exemplar_id"] for exemplar in listed[:3]]
    client.patch("/v1/buffers/b/exemplars", json={"exemplar_ids": ids, "scores": [0.5, 0.25, 0.125]}).raise_for_status()


def exported(client: httpx.Client, **params: Any) -> bytes:
    response = client.get("/v1/buffers/b/export", params=params)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    assert int(response.headers["content-length"]) == len(response.content)
    return response.content


def test_there_and_back_is_byte_exact(client: httpx.Client, data: Path) -> None:
    fill(client)
    file = exported(client)
    before = client.get("/v1/buffers/b").json()
    records = all_records(client)
    drawn = client.post("/v1/buffers/b/sample", json={"batch_size": 16, "seed": 4}).content

    response = client.post("/v1/buffers/copy/import", content=file, headers=ZIP)
    assert response.status_code == 201, response.text
    assert response.json() == before | {"name": "copy"}
    assert contents(all_records(client, buffer="copy")) == contents(records)
    scores = [record.score for record in all_records(client, buffer="copy")]
    assert scores == [record.score for record in records]

    # Under the same name it is the same buffer: its export, and its draws, to the byte.
    assert client.delete("/v1/buffers/b").status_code == 204
    assert client.post("/v1/buffers/b/import", content=file, headers=ZIP).status_code == 201
    assert exported(client) == file
    assert client.post("/v1/buffers/b/sample", json={"batch_size": 16, "seed": 4}).content == drawn
    # Ids go on where they were.
    pushed = push(client, [make_exemplar(0, 0)])
    assert pushed["exemplar_ids"][0] is None or pushed["exemplar_ids"][0] > max(r.exemplar_id for r in records)
    assert list((data / "incoming").iterdir()) == []


def test_what_was_imported_survives_a_crash(data: Path) -> None:
    with Server(data) as server, server.client() as client:
        fill(client)
        records = contents(all_records(client))
        client.post("/v1/buffers/copy/import", content=exported(client), headers=ZIP).raise_for_status()
        server.kill()
    with Server(data) as server, server.client() as client:
        assert contents(all_records(client, buffer="copy")) == records


def test_plain_zarr_reads_it(client: httpx.Client, tmp_path: Path) -> None:
    fill(client)
    records = all_records(client)
    path = tmp_path / "b.zarr.zip"
    path.write_bytes(exported(client))
    with zarr.storage.ZipStore(path, mode="r") as store:
        group = zarr.open(store, mode="r")
        assert isinstance(group, zarr.Group)
        attributes: dict[str, Any] = group.attrs.asdict()
        column = {name: np.asarray(array[:]) for name, array in group.arrays()}
    described, learners = attributes["exemplar_memory_buffer"], attributes["learners"]
    assert described["name"] == "b"
    assert described["description"] == "a tëst"
    assert column["exemplar_id"].tolist() == [record.exemplar_id for record in records]
    assert column["score"].tolist() == [np.float32(record.score) for record in records]
    assert [learners[code] for code in column["learner"]] == [record.learner_id for record in records]
    ends = [*column["offset"].tolist(), len(column["body"])]
    bodies = [column["body"][start:end].tobytes() for start, end in pairwise(ends)]
    assert bodies == [record.body for record in records]


def test_a_snapshot_is_exported_as_it_was(client: httpx.Client) -> None:
    put_buffer(client, 3000, eviction="fifo")
    push(client, [make_exemplar(0, rank) for rank in range(8)])
    client.put("/v1/buffers/b/snapshots/first").raise_for_status()
    file = exported(client)
    push(client, [make_exemplar(0, rank, seed=99) for rank in range(8)])
    assert exported(client, snapshot="first") == file
    assert exported(client) != file
    assert_problem(client.get("/v1/buffers/b/export", params={"snapshot": "none"}), "unknown_snapshot")


def test_an_empty_buffer(client: httpx.Client) -> None:
    put_buffer(client)
    client.post("/v1/buffers/copy/import", content=exported(client), headers=ZIP).raise_for_status()
    assert all_records(client, buffer="copy") == []


def test_what_is_evicted_while_it_is_exported_is_in_it(tmp_path: Path) -> None:
    with Store(tmp_path, Options(segment_bytes=PIECE_BYTES)) as store:
        num_bytes = 60_000
        buffer, _ = store.create_buffer("b", budget_bytes=200 * num_bytes, eviction="fifo")
        first = [make_exemplar(0, rank, pad=num_bytes - 1000) for rank in range(160)]
        buffer.push(encode_batch(first))
        pieces = buffer.export()
        got = [next(pieces), next(pieces)]
        held = buffer.stats()
        buffer.push(encode_batch([make_exemplar(1, rank, pad=num_bytes - 1000) for rank in range(100)]))
        pinned = buffer.stats()
        assert pinned.pinned_bytes > 0
        assert pinned.disk_bytes <= pinned.disk_limit_bytes
        got += list(pieces)
        path = tmp_path / "out"
        path.write_bytes(b"".join(got))
        copy = store.import_buffer("copy", path)
        assert copy.stats().num_records == held.num_records == 160
        # What was kept for the export is let go, and comes off the disk.
        assert buffer.stats().pinned_bytes == 0
        buffer.push(encode_batch([make_exemplar(2, 0, pad=num_bytes - 1000)]))


def test_an_export_that_is_not_read_to_its_end_lets_go(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=4000, eviction="fifo")
        buffer.push(encode_batch([make_exemplar(0, rank) for rank in range(8)]))
        pieces = buffer.export()
        next(pieces)
        buffer.push(encode_batch([make_exemplar(1, rank) for rank in range(12)]))
        assert buffer.stats().pinned_bytes > 0
        pieces.close()
        assert buffer.stats().pinned_bytes == 0
        assert buffer.snapshots() == []


def test_an_export_that_nobody_reads_lets_go(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=4000, eviction="fifo")
        buffer.push(encode_batch([make_exemplar(0, rank) for rank in range(8)]))
        buffer.export().close()
        assert not buffer.contents.leases
        buffer.export()
        assert not buffer.contents.leases


class Streamed(io.RawIOBase):
    """A file that cannot go back: what is written to it gets its sizes and CRCs behind, in data descriptors."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data)
        return len(data)


def test_an_export_with_data_descriptors_is_imported(client: httpx.Client) -> None:
    """As earlier versions wrote them."""
    fill(client)
    file = exported(client)
    out = Streamed()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            with new.open(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), "w", force_zip64=name == "body/c/0") as entry:
                entry.write(old.read(name))
    with zipfile.ZipFile(io.BytesIO(out.content)) as archive:
        assert all(info.flag_bits & 8 for info in archive.infolist())
    response = client.post("/v1/buffers/copy/import", content=out.content, headers=ZIP)
    assert response.status_code == 201, response.text
    assert contents(all_records(client, buffer="copy")) == contents(all_records(client))


def test_sizes_and_crcs_are_in_front(client: httpx.Client) -> None:
    fill(client)
    file = exported(client)
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            assert info.flag_bits == 0
            crc32, packed, size = struct.unpack_from("<3I", file, info.header_offset + 14)
            assert (crc32, packed, size) == (info.CRC, info.file_size, info.file_size)


def test_what_32_bits_do_not_hold_is_in_the_fields_of_zip64(tmp_path: Path) -> None:
    path, size = tmp_path / "large.zip", 2**32 + 5
    first, piece = layout.small_entry("first", b"abc", 0)
    large = layout.Entry("large", size, 7, len(piece))
    head = piece + layout.local_header(large.name, large.size, large.crc32)
    last, behind = layout.small_entry("last", b"de", len(head) + size)
    with path.open("wb") as file:
        file.write(head)
        # A hole, which takes no disk.
        file.seek(size, os.SEEK_CUR)
        file.write(behind + layout.zip_directory([first, large, last], file.tell() + len(behind)))
    with zipfile.ZipFile(path) as archive:
        assert (archive.read("first"), archive.read("last")) == (b"abc", b"de")
        info = archive.getinfo("large")
        assert (info.file_size, info.compress_size, info.CRC) == (size, size, 7)
        with archive.open(info) as entry:
            assert entry.read(1) == b"\0"
    tensorstore_kvstore = {"driver": "zip", "base": {"driver": "file", "path": str(path)}}
    assert tensorstore.KvStore.open(tensorstore_kvstore).result()["last"] == b"de"


def test_a_client_that_goes_away_lets_go(data: Path) -> None:
    with Server(data) as server, server.client() as client:
        put_buffer(client, 64 * 2**20, eviction="fifo")
        for part in range(6):
            push(client, [make_exemplar(part, rank, pad=900_000) for rank in range(8)])
        with client.stream("GET", "/v1/buffers/b/export") as response:
            next(response.iter_raw())
        push(client, [make_exemplar(9, rank, pad=900_000) for rank in range(20)])

        def let_go() -> bool:
            return bool(client.get("/v1/buffers/b/stats").json()["pinned_bytes"] == 0)

        deadline = threading.Event()
        for _ in range(100):
            if let_go():
                break
            deadline.wait(0.1)
        assert let_go()


def changed(file: bytes, path: str, change: Any) -> bytes:
    """The file with one of its entries changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name == path else data)
    return out.getvalue()


def described(**values: Any) -> Any:
    def change(data: bytes) -> bytes:
        document = json.loads(data)
        document["attributes"]["exemplar_memory_buffer"] |= values
        return json.dumps(document).encode()

    return change


def test_a_file_without_a_draw_key_draws_by_the_name_it_states(client: httpx.Client) -> None:
    """Buffers did when it was written; under another name they go on with the same."""
    put_buffer(client, 10 * make_exemplar(seed=1).charge, eviction="reservoir")
    push(client, [make_exemplar(rank=rank, seed=1) for rank in range(30)])

    def of_old(data: bytes) -> bytes:
        document = json.loads(data)
        stated = document["attributes"]["exemplar_memory_buffer"]
        assert stated.pop("draw_key") == ""
        return json.dumps(document).encode()

    file = changed(exported(client), "zarr.json", of_old)
    assert client.post("/v1/buffers/copy/import", content=file, headers=ZIP).status_code == 201
    again = changed(exported(client), "zarr.json", described(draw_key="b"))
    assert client.post("/v1/buffers/same/import", content=again, headers=ZIP).status_code == 201
    ids = []
    for buffer in ("b", "copy", "same"):
        push(client, [make_exemplar(rank=rank, seed=1) for rank in range(30)], buffer=buffer)
        ids.append([record.exemplar_id for record in all_records(client, buffer=buffer)])
    assert ids[1] == ids[2] != ids[0]


def test_a_file_from_before_there_was_a_ceiling_keeps_what_it_has_grown_to(client: httpx.Client) -> None:
    put_buffer(client, None, full_samples_per_class=1, full_sample_bytes=1000)
    push(client, [make_exemplar(0, 0)])

    def of_old(data: bytes) -> bytes:
        document = json.loads(data)
        stated = document["attributes"]["exemplar_memory_buffer"]
        assert stated.pop("max_budget_bytes") is None
        stated |= {"budget_bytes": 1_200_000, "classes_seen": list(range(1200))}
        return json.dumps(document).encode()

    file = changed(exported(client), "zarr.json", of_old)
    response = client.post("/v1/buffers/copy/import", content=file, headers=ZIP)
    assert (response.json()["budget_bytes"], response.json()["max_budget_bytes"]) == (1_200_000, 1_200_000)


def test_garbage_is_refused_and_leaves_nothing(client: httpx.Client, data: Path) -> None:
    fill(client)
    file = exported(client)
    before = sorted(path.name for path in (data / "segments").iterdir())
    body = zipfile.ZipFile(io.BytesIO(file)).read("body/c/0")
    cases: list[tuple[bytes, str]] = [
        (b"", "invalid_export"),
        (b"PK\x03\x04 and so on", "invalid_export"),
        (file[: len(file) // 2], "invalid_export"),
        (changed(file, "class_id/c/0", lambda column: column[:-1]), "invalid_export"),
        (changed(file, "class_id/c/0", lambda column: column[:-4]), "invalid_export"),
        (changed(file, "exemplar_id/c/0", lambda column: bytes(len(column))), "invalid_export"),
        (changed(file, "offset/c/0", lambda column: column[::-1]), "invalid_export"),
        (changed(file, "learner/c/0", lambda column: b"\xff" * len(column)), "invalid_export"),
        (changed(file, "body/c/0", lambda _: body[:-1]), "invalid_record"),
        (changed(file, "body/c/0", lambda _: bytes([body[0] ^ 1]) + body[1:]), "invalid_record"),
        (changed(file, "grid_h/c/0", lambda column: bytes(len(column))), "invalid_record"),
        (changed(file, "zarr.json", described(next_exemplar_id=1)), "invalid_export"),
        (changed(file, "zarr.json", described(version=-1)), "invalid_export"),
        (changed(file, "zarr.json", described(classes_seen=[])), "invalid_export"),
        (changed(file, "zarr.json", described(eviction="whim")), "invalid_export"),
        (changed(file, "zarr.json", described(budget_bytes="much")), "invalid_export"),
        (changed(file, "zarr.json", described(draw_key="x" * 64)), "invalid_export"),
        (changed(file, "zarr.json", described(budget_bytes=0)), "invalid_budget"),
        (changed(file, "zarr.json", described(budget_bytes=100)), "budget_exceeded"),
        (changed(file, "zarr.json", described(disk_limit_bytes=6001)), "disk_limit_exceeded"),
        (changed(file, "zarr.json", lambda _: b"{}"), "invalid_export"),
        (changed(file, "zarr.json", lambda _: b"[1"), "invalid_export"),
    ]
    for content, code in cases:
        response = client.post("/v1/buffers/copy/import", content=content, headers=ZIP)
        document = response.json()
        assert document["code"] in (code, "mask_mismatch", "invalid_payload", "payload_mismatch"), (code, document)
        assert "Traceback" not in response.text
        # The name that the service gives what comes in says nothing to who sent it.
        assert not re.search("[0-9a-f]{32}", document["detail"]), document
    segment = next(path for path in (data / "segments").iterdir())
    assert_problem(client.post("/v1/buffers/copy/import", content=segment.read_bytes(), headers=ZIP), "invalid_export")
    assert sorted(path.name for path in (data / "segments").iterdir()) == before
    assert list((data / "incoming").iterdir()) == []
    assert [entry["name"] for entry in client.get("/v1/buffers").json()["buffers"]] == ["b"]
    assert_problem(client.post("/v1/buffers/b/import", content=file, headers=ZIP), "buffer_exists")
    assert_problem(client.post("/v1/buffers/C!/import", content=file, headers=ZIP), "invalid_request")
    assert_problem(client.post("/v1/buffers/c/import", content=file), "invalid_request", status=415)


ODD: list[Any] = [
    *(-(2**64), -1, 0, 1, 2**31, 2**32, 2**40, 2**50, 2**62, 2**63 - 1, 2**63, 2**64, 10**400),
    *(0.5, 1e308, float("inf"), float("-inf"), float("nan")),
    *(None, True, "", "1", "\x00", "\ud800", "x" * 20_000, [], {}, [1], [[[]]]),
    *([0, 0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3, 2**32], [0, 1, 2, 3, -1], [0, 1, 2, 3, float("nan")]),
]


@pytest.mark.parametrize("field", BufferDescription.model_fields)
def test_what_a_description_says_is_judged_before_anything_is_made(
    client: httpx.Client, data: Path, field: str
) -> None:
    fill(client)
    file = exported(client)
    before = whole_state(data)
    refused = 0
    for value in ODD:
        # In JSON, what no float holds is a number like others.
        change = described(**{field: value})
        changed_file = changed(
            file, "zarr.json", lambda data, change=change: change(data).replace(b"Infinity", b"1e999")
        )
        response = client.post("/v1/buffers/copy/import", content=changed_file, headers=ZIP)
        assert response.status_code < 500 or response.status_code == 507, (value, response.text)
        if response.status_code != 201:
            refused += 1
            assert len(response.json()["detail"]) > 20
            assert_same(before, whole_state(data), value)
            continue
        # What is taken is a buffer as any other.
        push(client, [make_exemplar(0, 0), make_exemplar(200, 1)], buffer="copy")
        assert len(client.get("/v1/buffers").json()["buffers"]) == 2
        assert client.delete("/v1/buffers/copy").status_code == 204
        before = whole_state(data)
    assert refused >= len(ODD) - 12, field


def assert_same(before: dict[str, Any], after: dict[str, Any], value: object) -> None:
    """But for names of files that are reserved, and the count of changes."""
    for ignored in ("intents", "store"):
        before, after = ({k: v for k, v in state.items() if k != ignored} for state in (before, after))
    assert after == before, value


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("created_at", float("inf"), "Infinity is not JSON"),
        ("created_at", 253_402_300_800, "created_at: Input should be less than 253402300800"),
        ("version", 2**62, "version: Input should be less than 4611686018427387904"),
        ("next_exemplar_id", 2**63 - 2, "next_exemplar_id: Input should be less than 4611686018427387904"),
        ("next_exemplar_id", 2, "not beyond exemplar"),
        ("classes_seen", [0, 1, 2, 2, 3], "do not ascend"),
        ("classes_seen", [0, 1, 2], "class 3 of a record"),
        ("name", "No Name", "name: String should match pattern"),
        ("description", "\ud800", "half of a surrogate pair"),
    ],
)
def test_what_is_wrong_with_a_description_is_said(client: httpx.Client, field: str, value: object, words: str) -> None:
    fill(client)
    content = changed(exported(client), "zarr.json", described(**{field: value}))
    response = client.post("/v1/buffers/copy/import", content=content, headers=ZIP)
    assert words in assert_problem(response, "invalid_export")["detail"]


def test_a_score_that_is_no_number_is_refused(client: httpx.Client, data: Path) -> None:
    fill(client)
    file = exported(client)
    before = sorted(path.name for path in (data / "segments").iterdir())
    for score in (np.nan, np.inf, -np.inf):
        content = changed(file, "score/c/0", lambda column, score=score: np.float32(score).tobytes() + column[4:])
        response = client.post("/v1/buffers/copy/import", content=content, headers=ZIP)
        assert_problem(response, "invalid_record", index=0)
    assert sorted(path.name for path in (data / "segments").iterdir()) == before


def rewritten(file: bytes, change: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> bytes:
    """The file with entries as ``change`` writes them."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(out, "w") as new:
        change(new, {name: old.read(name) for name in old.namelist()})
    return out.getvalue()


@pytest.mark.parametrize("name", ["zarr.json", "score/c/0", "body/c/0", "offset/zarr.json", "beside"])
def test_an_entry_that_is_compressed_is_refused(client: httpx.Client, name: str) -> None:
    """What it unpacks to is not bounded by what arrives."""
    fill(client)

    def change(new: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
        for entry, data in (entries | {"beside": b"0" * 100}).items() if name == "beside" else entries.items():
            new.writestr(entry, data, zipfile.ZIP_DEFLATED if entry == name else zipfile.ZIP_STORED)

    response = client.post("/v1/buffers/copy/import", content=rewritten(exported(client), change), headers=ZIP)
    problem = assert_problem(response, "invalid_export")
    assert f"entry {name} is compressed" in problem["detail"]


def with_many_entries(new: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    for name, data in (entries | {f"{number:04}": b"" for number in range(2000)}).items():
        new.writestr(name, data)


def with_overlapping_entries(new: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    for name, data in entries.items():
        new.writestr(name, data)
    body = new.getinfo("body/c/0")
    for number in range(20):
        twin = copy(body)
        twin.filename = f"twin-{number}"
        new.filelist.append(twin)


def with_two_of_a_name(new: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    for name, data in entries.items():
        new.writestr(name, data)
    twin = copy(new.getinfo("body/c/0"))
    twin.header_offset = new.getinfo("score/c/0").header_offset
    twin.file_size = twin.compress_size = 0
    new.filelist.append(twin)


def with_a_comment(new: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    for name, data in entries.items():
        new.writestr(name, data)
    new.comment = b"behind"


def with_json(document: bytes) -> Callable[[zipfile.ZipFile, dict[str, bytes]], None]:
    def change(new: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
        for name, data in entries.items():
            new.writestr(name, document if name == "zarr.json" else data)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_many_entries, "directory of"),
        (with_overlapping_entries, "more bytes than the file"),
        (with_two_of_a_name, "same name"),
        (with_a_comment, "directory is not at its end"),
        (with_json(b'{"attributes": ' + 30_000 * b"[" + 30_000 * b"]" + b"}"), "brackets"),
        (with_json(b'{"attributes": ' + 9_000 * b"[" + 9_000 * b"]" + b"}"), "nested deeper than 64"),
        (with_json(b'{"attributes": ' + 9_000 * b"9" + b"}"), "too many digits"),
        (with_json(b'"' + 33 * 2**20 * b"a" + b'"'), "33554432 bytes"),
    ],
)
def test_what_reading_it_would_take_is_bounded_first(client: httpx.Client, change: Any, words: str) -> None:
    fill(client)
    response = client.post("/v1/buffers/copy/import", content=rewritten(exported(client), change), headers=ZIP)
    assert words in assert_problem(response, "invalid_export")["detail"]


MEASURE = """
import resource, sys
from pathlib import Path
from memory_format import FormatError
from memory_service.store.transfer.imports import Import
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    Import(Path(sys.argv[1]))
except FormatError as error:
    print(error.code, (peak() - before) * 1024)
"""


def test_the_memory_that_an_import_takes_is_bounded_by_its_file(client: httpx.Client, tmp_path: Path) -> None:
    fill(client)

    def change(new: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
        for name, data in entries.items():
            packed = name == "score/c/0"
            new.writestr(name, bytes(2**28) if packed else data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)

    path = tmp_path / "packed.zip"
    path.write_bytes(rewritten(exported(client), change))
    assert path.stat().st_size < 2**20
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, timeout=60)
    code, taken = done.stdout.split()
    assert code == "invalid_export"
    assert int(taken) < 32 * 2**20


def test_a_record_larger_than_any_is_refused_unread(client: httpx.Client) -> None:
    fill(client)

    def change(new: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
        for name, data in entries.items():
            new.writestr(name, bytes(17 * 2**20) if name == "body/c/0" else data)

    response = client.post("/v1/buffers/copy/import", content=rewritten(exported(client), change), headers=ZIP)
    assert "at most 16777216" in assert_problem(response, "invalid_export")["detail"]


def test_an_import_that_is_too_large(data: Path) -> None:
    with running(data, max_import_bytes=1000) as client:
        for form in FORMS.values():
            response = client.post(
                "/v1/buffers/copy/import", content=bytes(2000), headers={"Content-Type": form.media_type}
            )
            assert_problem(response, "batch_too_large", limit=1000)


def test_a_table_may_be_longer_than_a_push_and_than_json(data: Path) -> None:
    with running(data, max_body_bytes=6000, max_json_bytes=1000) as client:
        put_buffer(client)
        for rank in range(4):
            push(client, [make_exemplar(rank, rank, pad=1500)])
        for form in (FORMS["arrow-stream"], FORMS["arrow-file"]):
            table = client.get("/v1/buffers/b/export", headers={"Accept": form.media_type}).content
            assert len(table) > 6000
            kind = {"Content-Type": form.media_type}
            response = client.post(f"/v1/buffers/copy{form.suffix}/import", content=table, headers=kind)
            assert response.status_code == 201, response.text
            assert_problem(client.post("/v1/buffers/b/exemplars", content=table, headers=kind), "batch_too_large")


def test_the_commands(data: Path, tmp_path: Path) -> None:
    with running(data) as client:
        fill(client)
        file = exported(client)
        records = contents(all_records(client))
    out = tmp_path / "out.zarr.zip"
    code, said, _ = command("export", "b", str(out), "--data", str(data))
    assert code == 0
    assert f"buffer b, {len(records)} records: {len(file)} bytes" in said
    assert out.read_bytes() == file
    code, _, _ = command("export", "b", str(tmp_path / "b.parquet"), "--png", "--data", str(data))
    assert code == 0
    assert parquet.read_table(tmp_path / "b.parquet").num_rows == len(records)
    code, _, error = command("export", "b", str(out), "--data", str(data))
    assert (code, "exists already" in error) == (2, True)
    code, _, error = command("export", "nobody", str(tmp_path / "x"), "--data", str(data))
    assert (code, "no buffer 'nobody'" in error) == (2, True)
    code, _, error = command("export", "b", str(tmp_path / "x"), "--data", str(tmp_path / "nowhere"))
    assert (code, "no store" in error) == (2, True)
    assert not (tmp_path / "nowhere").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.parquet", "out.zarr.zip", "store"]
    code, said, _ = command("import", "copy", str(out), "--data", str(data))
    assert code == 0
    assert f"buffer copy: {len(records)} records" in said
    with running(data) as client:
        assert contents(all_records(client, buffer="copy")) == records


def test_errors_of_the_store(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        buffer, _ = store.create_buffer("b", budget_bytes=4000)
        with pytest.raises(NotFoundError):
            buffer.export("none")
        path = tmp_path / "b"
        path.write_bytes(b"".join(buffer.export()))
        with pytest.raises(ConflictError):
            store.import_buffer("b", path)
        with pytest.raises(FormatError):
            store.import_buffer("c", tmp_path / "store" / "lock")
        copy = store.import_buffer("c", path)
        with pytest.raises(NotFoundError):
            copy.sample(SampleRequest(1))
