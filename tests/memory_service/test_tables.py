"""A buffer as an Arrow stream, an Arrow file and Parquet: what is in them, what is asked for, and how they are sent."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from memory_format import MEDIA_TYPE, FormatError, decode_batch, encode_batch
from memory_format.api.forms import FORMS, ExportForm, form_named
from memory_format.wire_schema import SCHEMA
from memory_service.http.media import chosen
from memory_service.http.streaming import ExportResponse
from memory_service.store import Buffer, Store
from memory_service.store.pure.model import Options
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments.readers import LeaseEndedError
from memory_service.store.transfer import export
from memory_service.store.transfer.tables import read_table
from tests.memory_peak import forget_peak, peak_bytes
from tests.memory_service.conftest import running
from tests.memory_service.helpers import all_records, assert_problem, make_exemplar, push, put_buffer

URL = "/v1/buffers/b/export"
TABLES: list[ExportForm] = ["arrow-stream", "arrow-file", "parquet"]
READ: dict[str, Callable[[bytes], pa.Table]] = {
    "arrow-stream": lambda data: pa.ipc.open_stream(data).read_all(),
    "arrow-file": lambda data: pa.ipc.open_file(data).read_all(),
    "parquet": lambda data: parquet.read_table(io.BytesIO(data)),
}


def exported(client: httpx.Client, form: ExportForm, url: str = URL, **params: Any) -> bytes:
    response = client.get(url, params=params, headers={"Accept": FORMS[form].media_type})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == FORMS[form].media_type
    assert response.headers["vary"] == "Accept"
    name = ("b-then" if "snapshot" in params else "b") + FORMS[form].suffix
    assert response.headers["content-disposition"] == f'attachment; filename="{name}"'
    return response.content


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service with a buffer of six records, one of them rescored."""
    with running(tmp_path_factory.mktemp("store")) as client:
        put_buffer(client, description="a tëst")
        records = [make_exemplar(n % 3, n, pad=90 * n, learner_id=f"l{n % 2}", codec="webp") for n in range(6)]
        push(client, records)
        client.put("/v1/buffers/b/snapshots/then").raise_for_status()
        client.patch("/v1/buffers/b/exemplars", json={"exemplar_ids": [2], "scores": [0.5]}).raise_for_status()
        yield client


@pytest.mark.parametrize("form", TABLES)
def test_a_table_has_all_that_a_buffer_holds(filled: httpx.Client, form: ExportForm) -> None:
    data = exported(filled, form)
    assert data.startswith(FORMS[form].begins)
    assert data.endswith(FORMS[form].ends)
    table = READ[form](data)
    assert table.schema.equals(SCHEMA)
    records = all_records(filled)
    for name in set(SCHEMA.names) - {"codec", "flags", "grid_h", "grid_w"}:
        assert table[name].to_pylist() == [
            np.float32(getattr(record, name)) if name == "score" else getattr(record, name) for record in records
        ], name
    described = json.loads(table.schema.metadata[b"exemplar_memory_buffer"])
    assert (described["description"], described["next_exemplar_id"]) == ("a tëst", 7)
    assert 0.5 not in READ[form](exported(filled, form, snapshot="then"))["score"].to_pylist()


def test_an_exported_stream_can_be_pushed(filled: httpx.Client) -> None:
    data = exported(filled, "arrow-stream")
    put_buffer(filled, buffer="other")
    assert push(filled, decode_batch(data), buffer="other")["kept"] == 6
    response = filled.post("/v1/buffers/other/exemplars", content=data, headers={"Content-Type": MEDIA_TYPE})
    assert response.json()["kept"] == 6


@pytest.mark.parametrize("form", TABLES)
def test_pictures_are_a_column_on_wish(filled: httpx.Client, form: ExportForm) -> None:
    table = READ[form](exported(filled, form, png="true"))
    assert table.drop_columns("png").schema.equals(SCHEMA)
    for exemplar_id, png in zip(table["exemplar_id"].to_pylist(), table["png"].to_pylist(), strict=True):
        assert png == filled.get(f"/v1/buffers/b/exemplars/{exemplar_id}/image.png").content
        assert Image.open(io.BytesIO(png)).size == (16, 12)


def test_a_picture_that_cannot_be_decoded_here_is_null(tmp_path: Path) -> None:
    golden = Path(__file__).parent.parent / "golden" / "jpegxl"
    with running(Path(shutil.copytree(golden, tmp_path / "store"))) as client:
        accept = {"Accept": FORMS["parquet"].media_type}
        table = READ["parquet"](client.get("/v1/buffers/kept/export?png=true", headers=accept).content)
    codecs = table["codec"].to_pylist()
    assert {6, 7} < set(codecs)
    assert [png is None for png in table["png"].to_pylist()] == [codec in (6, 7) for codec in codecs]


def test_parquet_repeats_no_payload(filled: httpx.Client) -> None:
    data = exported(filled, "parquet")
    bodies = [record.body for record in all_records(filled)]
    assert [data.count(body) for body in bodies] == [1] * 6
    # As it is without a word: the least and the greatest are in the statistics, too.
    out = io.BytesIO()
    parquet.write_table(READ["parquet"](data), out)
    assert max(map(out.getvalue().count, bodies)) > 1
    # Readers that skip row groups go by these.
    group = parquet.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    with_statistics = {group.column(i).path_in_schema: group.column(i).is_stats_set for i in range(group.num_columns)}
    assert [name for name, is_set in with_statistics.items() if not is_set] == ["body"]


@pytest.mark.parametrize("form", TABLES)
def test_an_empty_buffer_is_an_empty_table(tmp_path: Path, form: ExportForm) -> None:
    with Store(tmp_path) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10_000)
        table = READ[form](b"".join(buffer.export(form=form, png=True)))
        assert (table.num_rows, table.schema.names) == (0, [*SCHEMA.names, "png"])


ANY = tuple(form.media_type for form in FORMS.values())
ZIP, STREAM, FILE, PARQUET = ANY


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", ZIP),
        ("*/*", ZIP),
        ("application/*", ZIP),
        (PARQUET, PARQUET),
        (PARQUET.upper(), PARQUET),
        (f"{PARQUET};q=0.5, {FILE};q=0.7, text/html", FILE),
        (f"{FILE}, {PARQUET}", FILE),
        (f"*/*;q=0.1, {STREAM}", STREAM),
        (f"*/*, {ZIP};q=0", STREAM),
        (f"application/*;q=0.2, {ZIP};q=0.1", STREAM),
        (f"text/html, {PARQUET};q=0", None),
        ("text/html, image/*", None),
        ("application/json", None),
        ("*/*;q=0", None),
        # No media range at all.
        ("parquet", ZIP),
        (f"{PARQUET};q=1.2.3", ZIP),
    ],
)
def test_what_is_chosen_for_an_accept_header(accept: str, kind: str | None) -> None:
    assert chosen(accept, ANY) == kind


def test_what_is_not_given_is_refused_in_words(filled: httpx.Client) -> None:
    for method in ("GET", "HEAD"):
        response = filled.request(method, URL, headers={"Accept": "text/csv, application/json"})
        assert response.status_code == 406
    detail = assert_problem(filled.get(URL, headers={"Accept": "text/csv"}), "not_acceptable")["detail"]
    assert all(kind in detail for kind in ANY)
    detail = assert_problem(filled.get(URL, params={"png": "true"}), "invalid_query")["detail"]
    assert PARQUET in detail
    assert_problem(filled.get(URL, params={"png": "yes"}), "invalid_request")
    content = filled.get("/openapi.json").json()["paths"]["/v1/buffers/{name}/export"]["get"]["responses"]["200"]
    assert list(content["content"]) == list(ANY)


def test_head_says_what_get_would(filled: httpx.Client) -> None:
    for form in FORMS:
        accept = {"Accept": FORMS[form].media_type}
        head, get = filled.head(URL, headers=accept), filled.get(URL, headers=accept)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-disposition", "vary"):
            assert head.headers[name] == get.headers[name]
        assert head.headers.get("content-length") == (str(len(get.content)) if form == "zarr" else None)


@pytest.fixture(scope="module")
def sizeable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buffer]:
    """18 MB of records, in a store of its own."""
    with Store(tmp_path_factory.mktemp("sizeable"), Options(segment_bytes=2**20)) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=20_000_000)
        buffer.push(encode_batch([make_exemplar(0, n, pad=59_000) for n in range(300)]))
        yield buffer


@pytest.mark.parametrize("form", TABLES)
def test_a_table_is_sent_piece_by_piece(sizeable: Buffer, monkeypatch: pytest.MonkeyPatch, form: ExportForm) -> None:
    monkeypatch.setattr(export, "PIECE_BYTES", piece := 2**18)
    pieces = sizeable.export(form=form)
    lengths = [len(next(pieces))]
    before = forget_peak()
    lengths += [len(piece) for piece in pieces]
    assert peak_bytes() - before < 16 * piece
    assert sum(lengths) > 60 * piece
    assert max(lengths) < 1.2 * piece
    assert min(lengths) > 0


@pytest.mark.parametrize("form", TABLES)
def test_a_table_that_a_change_cut_short_does_not_look_whole(sizeable: Buffer, form: ExportForm) -> None:
    pieces = sizeable.export(form=form)
    got = [next(pieces)]
    pieces.lease.end()
    with pytest.raises(LeaseEndedError):
        got.extend(pieces)
    assert not b"".join(got).endswith(FORMS[form].ends)


@pytest.mark.parametrize("cut", [False, True])
def test_only_a_whole_table_has_an_end_in_http(sizeable: Buffer, cut: bool) -> None:
    """Its length is not announced: without a last message the server closes the connection, which clients see."""
    pieces = sizeable.export(form="parquet")
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)
        if len(messages) == 3 and cut:
            pieces.lease.end()
        if not message.get("more_body", message["type"] == "http.response.start"):
            assert not sizeable.contents.leases

    async def receive() -> Any:
        await anyio.sleep_forever()

    response = ExportResponse(pieces, 30, {}, FORMS["parquet"].media_type)
    anyio.run(response, {"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    assert not any(name == b"content-length" for name, _ in messages[0]["headers"])
    sent = b"".join(message["body"] for message in messages[1:])
    if cut:
        assert messages[-1].get("more_body")
        assert not sent.endswith(b"PAR1")
    else:
        assert not messages[-1].get("more_body")
        assert READ["parquet"](sent).num_rows == 300
    assert not sizeable.contents.leases


def test_a_file_says_its_form_by_its_name() -> None:
    names = ["x.parquet", "x.PARQUET", "x.arrow", "x.arrows", "x.zarr.zip", "x.zip", "x"]
    assert [form_named(Path(name)) for name in names] == [
        "parquet", "parquet", "arrow-file", "arrow-stream", "zarr", "zarr", "zarr",
    ]  # fmt: skip
    assert form_named(Path("x.parquet"), "arrow-file") == form_named(Path("x.csv"), "arrow-file") == "arrow-file"
    for name in ("x.csv", "x.zarr", "x.feather", "x.parquet.gz"):
        with pytest.raises(FormatError, match=r"x\.zarr\.zip or x\.arrows or x\.arrow or x\.parquet, and not"):
            form_named(Path(name))


# What was exported comes back


def imported(client: httpx.Client, form: ExportForm, data: bytes, name: str = "copy") -> httpx.Response:
    return client.post(f"/v1/buffers/{name}/import", content=data, headers={"Content-Type": FORMS[form].media_type})


@pytest.mark.parametrize("png", ["false", "true"])
@pytest.mark.parametrize("form", ["arrow-stream", "arrow-file"])
def test_there_and_back_is_byte_exact(filled: httpx.Client, form: ExportForm, png: str) -> None:
    data = exported(filled, form, png=png)
    response = imported(filled, form, data)
    assert response.status_code == 201, response.text
    assert response.json() == filled.get("/v1/buffers/b").json() | {"name": "copy"}
    drawn = {"batch_size": 16, "seed": 4}
    answers = [filled.post(f"/v1/buffers/{name}/sample", json=drawn).content for name in ("b", "copy")]
    assert answers[0] == answers[1]
    assert all_records(filled, buffer="copy") == all_records(filled)
    filled.delete("/v1/buffers/copy").raise_for_status()


def test_a_table_of_many_batches_and_learners_is_taken_whole(sizeable: Buffer, tmp_path: Path) -> None:
    rows = READ["arrow-stream"](b"".join(sizeable.export(form="arrow-stream")))
    learners = pa.array([f"l{n % 7}" for n in range(300)])
    place = rows.schema.get_field_index("learner_id")
    rows = rows.set_column(place, SCHEMA.field("learner_id"), learners)
    path = tmp_path / "x"
    with path.open("wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        for first, num in ((0, 1), (1, 0), (1, 250), (251, 49)):
            writer.write_table(rows.slice(first, num), max_chunksize=120)
    with Store(tmp_path / "store") as store:
        copy = store.import_buffer("copy", path)
        (found, _) = copy.sample(SampleRequest(300, replace=False))
        records = sorted(decode_batch(bytes(found)), key=lambda record: record.exemplar_id)
    assert [record.learner_id for record in records] == learners.to_pylist()
    assert [record.body for record in records] == rows["body"].to_pylist()


def test_an_imported_score_of_minus_zero_is_zero_before_and_after_a_restart(
    filled: httpx.Client, tmp_path: Path
) -> None:
    """As a pushed one: a snapshot's scores are kept by SQLite (findings/sqlite_minus_zero.sh)."""
    table = READ["arrow-stream"](exported(filled, "arrow-stream"))
    scores = pa.array([-0.0] * 6, pa.float32())
    table = table.set_column(table.schema.get_field_index("score"), SCHEMA.field("score"), scores)
    found: list[str] = []

    def look(client: httpx.Client) -> None:
        for seen in ({}, {"snapshot": "then"}):
            said = client.get("/v1/buffers/copy/exemplars", params=seen).json()["exemplars"]
            found.extend(str(one["score"]) for one in said)

    with running(tmp_path) as client:
        imported(client, "arrow-stream", written(table)).raise_for_status()
        client.put("/v1/buffers/copy/snapshots/then").raise_for_status()
        update = {"exemplar_ids": [1, 2], "scores": [0.5, 0.25]}
        client.patch("/v1/buffers/copy/exemplars", json=update).raise_for_status()
        look(client)
    with running(tmp_path) as client:
        look(client)
    assert found == ["0.5", "0.25", *["0.0"] * 10] * 2


def written(table: pa.Table, *, file: bool = False, **options: Any) -> bytes:
    out = io.BytesIO()
    make = pa.ipc.new_file if file else pa.ipc.new_stream
    with make(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return out.getvalue()


def changed(table: pa.Table, **members: Any) -> pa.Table:
    described = json.loads(table.schema.metadata[b"exemplar_memory_buffer"])
    said = json.dumps({**described, **members})
    return table.replace_schema_metadata({**table.schema.metadata, b"exemplar_memory_buffer": said})


BROKEN: dict[str, tuple[Callable[[pa.Table], bytes], str]] = {
    "metadata lost": (lambda table: written(table.replace_schema_metadata(None)), "memory_format.read_records"),
    "no JSON": (lambda table: written(table.replace_schema_metadata({"exemplar_memory_buffer": "{"})), "JSON"),
    "much JSON": (
        lambda table: written(table.replace_schema_metadata({"exemplar_memory_buffer": "[" * 30_000})),
        "brackets",
    ),
    "other settings": (lambda table: written(changed(table, eviction="none")), "eviction"),
    "ids that are too large": (lambda table: written(changed(table, next_exemplar_id=3)), "next_exemplar_id"),
    "another order": (lambda table: written(table.sort_by([("exemplar_id", "descending")])), "do not ascend"),
    "a column less": (lambda table: written(table.drop_columns("phase")), "expected columns"),
    "a column more": (lambda table: written(table.append_column("a", table["rank"])), "and not a"),
    "compressed": (lambda table: written(table, compression="zstd"), "compressed"),
    "cut": (lambda table: written(table)[:-400], "no whole Arrow stream"),
    "cut between batches": (lambda table: written(pa.concat_tables([table, table]))[:-8], "no whole Arrow stream"),
    "damaged": (lambda table: written(table)[:-400] + written(table)[-8:], "not an Arrow IPC stream"),
    "a file that is cut": (lambda table: written(table, file=True)[:-100], "no whole Arrow file"),
    "a file's beginning": (lambda table: written(table, file=True)[:8], "no whole Arrow file"),
    "a footer beyond the file": (lambda table: written(table, file=True)[:-10] + b"\xff\xff\xff\x7fARROW1", "whole"),
    "Parquet": (lambda table: b"PAR1" + bytes(100) + b"PAR1", "MemoryClient.import_buffer"),
    "nothing": (lambda table: b"", "not an exported buffer"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_table_that_is_not_understood_is_refused_in_words(filled: httpx.Client, what: str) -> None:
    make, words = BROKEN[what]
    table = READ["arrow-stream"](exported(filled, "arrow-stream"))
    response = imported(filled, "arrow-stream", make(table))
    assert words in assert_problem(response, "invalid_export")["detail"]
    assert filled.get("/v1/buffers/copy").status_code == 404


def test_damage_is_found_before_a_table_is_a_buffer(filled: httpx.Client) -> None:
    data = bytearray(exported(filled, "arrow-stream"))
    data[data.index(all_records(filled)[3].body) + 40] ^= 1
    assert "CRC-32" in assert_problem(imported(filled, "arrow-stream", bytes(data)), "invalid_record")["detail"]
    assert filled.get("/v1/buffers/copy").status_code == 404


def test_parquet_is_refused_before_it_is_sent(filled: httpx.Client) -> None:
    detail = assert_problem(imported(filled, "parquet", b"PAR1"), "invalid_request", status=415)["detail"]
    assert "MemoryClient.import_buffer makes of Parquet" in detail


def test_importing_a_table_takes_no_memory_for_its_bodies(sizeable: Buffer, tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    # One batch of all, as somebody else may write it.
    path.write_bytes(written(READ["arrow-stream"](b"".join(sizeable.export(form="arrow-stream"))).combine_chunks()))
    with path.open("rb") as file:
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        contents = read_table(file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(contents.headers) == 300
    assert peak + pa.total_allocated_bytes() - before < 1_000_000
