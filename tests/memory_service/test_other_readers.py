"""Sealed segments and exports in other libraries' hands: Zarr's three implementations, and readers of tables. The table
in docs/format.md says what comes out here."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arro3.io
import duckdb
import httpx
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
import tensorstore
import zarr
from pyarrow import parquet

from memory_format import FormatError, Record, decode_batch, read_records
from memory_format.api.forms import FORMS, ExportForm
from memory_format.header import HEADER_DTYPE
from memory_format.tables import as_imported
from memory_service.store import Store
from tests.memory_format.test_format_doc import rows, section
from tests.memory_service.conftest import running
from tests.memory_service.helpers import make_exemplar, push, put_buffer

RECORDS = [make_exemplar(rank % 3, rank, pad=100 * rank, learner_id=f"l{rank % 2}") for rank in range(6)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], list[Record]]:
    """A segment and an export of the same records."""
    data = tmp_path_factory.mktemp("store")
    with running(data) as client:
        put_buffer(client)
        push(client, RECORDS)
        export = data.parent / "export.zarr.zip"
        export.write_bytes(exported(client))
    (segment,) = (data / "segments").glob("*.zarr.zip")
    return {"segment": segment, "export": export}, RECORDS


@pytest.fixture(scope="module")
def tables(written: tuple[dict[str, Path], list[Record]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The export again, as files of every form."""
    folder = tmp_path_factory.mktemp("tables")
    with Store(folder / "store") as store:
        buffer = store.import_buffer("b", written[0]["export"])
        for name, form in FORMS.items():
            (folder / f"x{form.suffix}").write_bytes(b"".join(buffer.export(form=name)))
    return {name: folder / f"x{form.suffix}" for name, form in FORMS.items()}


def exported(client: httpx.Client) -> bytes:
    response = client.get("/v1/buffers/b/export")
    assert int(response.headers["content-length"]) == len(response.content)
    return response.content


def assert_are(columns: dict[str, Any], records: list[Record]) -> None:
    assert columns["exemplar_id"] == list(range(1, len(records) + 1))
    for name in ("class_id", "phase", "rank", "text_length", "patch_px", "flags", "crc32"):
        assert columns[name] == [getattr(record, name) for record in records], name
    assert columns["score"] == [float(np.float32(record.score)) for record in records]
    assert columns["offset"] == np.cumsum([0, *(len(record.body) for record in records)])[:-1].tolist()
    assert bytes(columns["body"]) == b"".join(record.body for record in records)


@pytest.mark.parametrize("kind", ["segment", "export"])
def test_tensorstore_reads_every_array(written: tuple[dict[str, Path], list[Record]], kind: str) -> None:
    files, records = written
    base = {"driver": "file", "path": str(files[kind])}
    columns = {}
    for name in (*(HEADER_DTYPE.names or ()), "body"):
        array = tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "zip", "base": base, "path": f"{name}/"}}, read=True
        ).result()
        columns[name] = array.read().result().tolist()
        assert "learners" not in json.dumps(array.spec().to_json())
    assert_are(columns, records)
    assert DOCUMENTED["TensorStore"] == [YES, NONE, NONE, NONE, "lost", NONE]


READ_ALL = """
import { readFileSync } from "node:fs";
import * as zarr from "zarrita";
import ZipFileStore from "@zarrita/storage/zip";

const [path, ...names] = process.argv.slice(2);
const root = zarr.root(ZipFileStore.fromBlob(new Blob([readFileSync(path)])));
const columns = {};
for (const name of names) {
  const array = await zarr.open.v3(root.resolve(name), { kind: "array" });
  columns[name] = Array.from((await zarr.get(array)).data, Number);
}
const { attrs } = await zarr.open.v3(root, { kind: "group" });
console.log(JSON.stringify({ ...columns, learners: attrs.learners }));
"""


@pytest.fixture(scope="module")
def zarrita(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script that prints arrays of a Zarr store in a ZIP as zarrita reads them."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("zarrita needs Node.js with npm")
    directory = tmp_path_factory.mktemp("zarrita")
    install = [npm, "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    packages = ["zarrita@0.7.5", "@zarrita/storage@0.2.0"]
    done = subprocess.run([*install, *packages], cwd=directory, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"npm cannot get zarrita here: {done.stderr[-300:]}")
    script = directory / "read.mjs"
    script.write_text(READ_ALL)
    return script


@pytest.mark.parametrize("kind", ["segment", "export"])
def test_zarrita_reads_every_array(written: tuple[dict[str, Path], list[Record]], zarrita: Path, kind: str) -> None:
    files, records = written
    names = [*(HEADER_DTYPE.names or ()), "body"]
    done = subprocess.run(["node", str(zarrita), str(files[kind]), *names], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert_are(found, records)
    assert found["learners"] == ["l0", "l1"]
    assert DOCUMENTED["zarrita"] == [YES, NONE, NONE, NONE, "kept", NONE]


DOCUMENTED = {row[0]: row[1:] for row in rows("Other readers")}
YES, NO, NONE = "yes", "no", ""


def test_zarr_python_reads_both_as_the_document_says(written: tuple[dict[str, Path], list[Record]]) -> None:
    files, records = written
    for path in files.values():
        group = zarr.open(zarr.storage.ZipStore(path), mode="r")
        assert isinstance(group, zarr.Group)
        assert_are({name: np.asarray(array[:]).tolist() for name, array in group.arrays()}, records)
        assert group.attrs["learners"] == ["l0", "l1"]
        with pytest.raises(FileNotFoundError):
            zarr.open(str(path), mode="r")
    assert DOCUMENTED["zarr-python"] == [YES, NONE, NONE, NONE, "kept", NONE]


@dataclass(frozen=True)
class TableReader:
    """How people open tables with a library, and write them again."""

    opens: dict[ExportForm, Callable[[str], Any]]
    writes: Callable[[Any, str], object]


def by_sql(path: str) -> Any:
    return duckdb.sql(f"FROM '{path}'")


def arro3_table(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda path: read(path).read_all()


READERS = {
    "pyarrow": TableReader(
        {
            "arrow-stream": lambda path: pa.ipc.open_stream(path).read_all(),
            "arrow-file": lambda path: pa.ipc.open_file(path).read_all(),
            "parquet": parquet.read_table,
        },
        parquet.write_table,
    ),
    "arro3": TableReader(
        {
            "arrow-stream": arro3_table(arro3.io.read_ipc_stream),
            "arrow-file": arro3_table(arro3.io.read_ipc),
            "parquet": arro3_table(arro3.io.read_parquet),
        },
        arro3.io.write_parquet,
    ),
    "polars": TableReader(
        {"arrow-stream": polars.read_ipc_stream, "arrow-file": polars.read_ipc, "parquet": polars.read_parquet},
        lambda frame, path: frame.write_parquet(path),
    ),
    "pandas": TableReader(
        {"arrow-file": pandas.read_feather, "parquet": pandas.read_parquet},
        lambda frame, path: frame.to_parquet(path),
    ),
    "DuckDB": TableReader({"parquet": by_sql}, lambda relation, path: relation.write_parquet(path)),
}


def what_comes_back(path: Path, data: Path, export: Path) -> str:
    if b"exemplar_memory_buffer" not in (parquet.read_schema(path).metadata or {}):
        with pytest.raises(FormatError, match="read_records"), as_imported(path):
            pass
        return "records"
    told: list[tuple[int, int | None, str]] = []
    with as_imported(path, lambda *said: told.append(said)) as (stream, _), Store(data) as store:
        assert 0 < told[-1][0] <= stream.stat().st_size
        assert b"".join(store.import_buffer("b", stream).export()) == export.read_bytes()
    return "a buffer"


@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_tables_does_what_the_document_says(
    written: tuple[dict[str, Path], list[Record]], tables: dict[str, Path], name: str, tmp_path: Path
) -> None:
    reader, (_, records), kept, comes_back = READERS[name], written, set(), set()
    bodies = [record.body for record in records]
    for form, read in reader.opens.items():
        table = read(str(tables[form]))
        # Data frames and relations are pushed as they are.
        assert [record.body for record in read_records(table)] == bodies
        assert pa.table(table)["score"].to_pylist() == [np.float32(record.score) for record in records]
        kept.add("kept" if b"exemplar_memory_buffer" in (pa.table(table).schema.metadata or {}) else "lost")
        again = tmp_path / f"{form}.parquet"
        reader.writes(table, str(again))
        assert [record.body for record in read_records(again)] == bodies
        comes_back.add(what_comes_back(again, tmp_path / form, tables["zarr"]))
    opened = [YES if form in reader.opens else NO for form in FORMS if form != "zarr"]
    assert DOCUMENTED[name] == [NONE, *opened, *kept, *comes_back]


def test_a_stream_of_polars_is_a_batch_to_push(tables: dict[str, Path]) -> None:
    frame, out = polars.read_parquet(tables["parquet"]), io.BytesIO()
    frame.write_ipc_stream(out, compat_level=polars.CompatLevel.oldest())
    assert len(decode_batch(out.getvalue())) == len(RECORDS)
    frame.write_ipc_stream(out := io.BytesIO())
    with pytest.raises(FormatError, match=r"compat_level=polars.CompatLevel.oldest"):
        decode_batch(out.getvalue())


def test_the_lines_of_the_document_run(tables: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tables["zarr"].parent)
    (lines,) = re.findall(r"```python\n(.*?)```", section("Other readers"), flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(lines, found)
    scores = [float(np.float32(record.score)) for record in RECORDS]
    assert found["scores"].tolist() == found["frame"]["score"].tolist() == scores
    assert found["best"]["score"].to_list() == [score for score in scores if score > 0.5]
    assert sorted(found["counts"]) == [(0, 2), (1, 2), (2, 2)]
    assert "exemplar_memory_buffer" in polars.read_parquet_metadata(tables["parquet"])
    keys = duckdb.sql(f"SELECT key FROM parquet_kv_metadata('{tables['parquet']}')")
    assert keys is not None
    assert (b"exemplar_memory_buffer",) in keys.fetchall()
