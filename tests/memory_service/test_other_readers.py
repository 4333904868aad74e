"""Sealed segments and exports, read by implementations of Zarr that share no code with zarr-python."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tensorstore

from memory_format import Record
from memory_format.header import HEADER_DTYPE
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
    assert_are(columns, records)


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
console.log(JSON.stringify(columns));
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
    assert_are(json.loads(done.stdout), records)
