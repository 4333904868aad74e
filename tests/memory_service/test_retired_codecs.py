"""A store with records in JPEG XL, which an earlier version made: all of it works but their pictures.

tests/golden/jpegxl was made by the last commit that knew the codec: four records, two of them in JPEG XL.
Beside it lies a push of such a record.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from client import ReplayBatch
from memory_format import FormatError, MissingLibraryError, decode_batch
from memory_service.store import Store
from memory_service.store.admin.verify import verify
from tests.golden.make_schema2 import described
from tests.memory_service.conftest import running
from tests.memory_service.helpers import ARROW, all_records, assert_problem, sample

GOLDEN = Path(__file__).parent.parent / "golden"
URL = "/v1/buffers/kept/exemplars"
CODECS = ["em_zstd", "em_jpegxl", "em_jpegxl_lossless", "em_webp"]
RETIRED = {2: "em_jpegxl", 3: "em_jpegxl_lossless"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "jpegxl", tmp_path / "store"))


@pytest.fixture
def client(data: Path) -> Iterator[httpx.Client]:
    with running(data) as client:
        yield client


def test_it_holds_what_it_held_and_is_sound(data: Path) -> None:
    with Store(data) as store:
        found = {buffer.name: described(buffer) for buffer in store.buffers()}
    assert json.loads(json.dumps(found)) == json.loads((GOLDEN / "jpegxl-expected.json").read_text())
    assert verify(data).sound


def test_its_records_are_listed_and_looked_at(client: httpx.Client) -> None:
    assert [info["codec"] for info in client.get(URL).json()["exemplars"]] == CODECS
    assert [client.get(f"{URL}/{id_}").json()["codec"] for id_ in (1, 2, 3, 4)] == CODECS
    assert client.get(f"{URL}/3").json()["user_json"] == {"i": 2}


@pytest.mark.parametrize(("exemplar_id", "codec_id"), RETIRED.items())
def test_a_picture_says_which_version_reads_it(client: httpx.Client, exemplar_id: int, codec_id: str) -> None:
    problem = assert_problem(client.get(f"{URL}/{exemplar_id}/image.png"), "codec_unavailable", codec=codec_id)
    assert "needs version 0.1 of Exemplar Memory, which reads JPEG XL" in problem["detail"]
    for other in {1, 2, 3, 4} - set(RETIRED):
        assert client.get(f"{URL}/{other}/image.png").status_code == 200


def test_batches_of_them_have_all_but_pixels(client: httpx.Client) -> None:
    drawn = sample(client, buffer="kept", batch_size=8, seed=3, step=7)
    assert {record.codec_id for record in drawn} & set(RETIRED.values())
    batch = ReplayBatch.from_records(drawn, pixels=False)
    assert batch.token_ids[:, 0].tolist() == [7] * 8
    with pytest.raises(MissingLibraryError, match=r"version 0\.1 of Exemplar Memory") as caught:
        ReplayBatch.from_records(drawn)
    assert caught.value.code == "codec_unavailable"
    whole = [record for record in all_records(client, buffer="kept") if record.codec_id not in RETIRED.values()]
    assert ReplayBatch.from_records(whole).patches.any()


def test_new_ones_are_refused(client: httpx.Client) -> None:
    before = all_records(client, buffer="kept")
    sent = (GOLDEN / "jpegxl.arrow").read_bytes()
    problem = assert_problem(
        client.post(URL, content=sent, headers=ARROW), "codec_unavailable", codec="em_jpegxl", index=0
    )
    assert problem["detail"].startswith("record 0: codec em_jpegxl needs version 0.1 of Exemplar Memory")
    assert all_records(client, buffer="kept") == before
    # What is damaged is found out all the same.
    with pytest.raises(FormatError, match="CRC-32"):
        decode_batch(sent.replace(b"\xff\x0a", b"\xff\x0b"))


def test_they_are_rescored_exported_imported_and_deleted(client: httpx.Client) -> None:
    assert client.patch(URL, json={"exemplar_ids": [2], "scores": [0.5]}).json()["updated"] == 1
    exported = client.get("/v1/buffers/kept/export").content
    imported = client.post("/v1/buffers/copy/import", content=exported, headers={"Content-Type": "application/zip"})
    assert imported.status_code == 201, imported.text
    assert all_records(client, buffer="copy") == all_records(client, buffer="kept")
    assert client.delete(f"{URL}/2").json()["deleted"] == [2]
    assert [record.exemplar_id for record in all_records(client, buffer="kept")] == [1, 3, 4]
    assert [record.exemplar_id for record in all_records(client, buffer="copy")] == [1, 2, 3, 4]
