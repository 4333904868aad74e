"""Segment files, read with nothing of ours. ``decode`` is the code that docs/format.md shows."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import zarr
from PIL import Image

from memory_format import CODECS, HEADER_BYTES, Record, make_record
from memory_format.header import HEADER_DTYPE
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    assert_consistent,
    make_exemplar,
    push,
    put_buffer,
    reading,
    segment_records,
)


def decode(path: str, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Kept patches ``(K, P, P, 3)`` and their places in the grid, of record ``i`` of a segment of WebP
    records."""
    arrays = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r").arrays()
    segment = {name: np.asarray(array[:]) for name, array in arrays}
    names = ("grid_h", "grid_w", "patch_px", "text_length", "codec", "flags")
    h, w, p, length, codec, flags = (int(segment[name][i]) for name in names)
    if codec != 2 or flags & ~5:
        raise ValueError(f"codec {codec} and flags {flags}; only em_webp (2) without extras is read here")
    body = segment["body"][slice(*[*segment["offset"], len(segment["body"])][i : i + 2])]
    keep, rest = np.unpackbits(body[: -(-h * w // 8)])[: h * w] == 1, body[-(-h * w // 8) :]
    frame = rest[-(-length // 8) + 2 * int(np.unpackbits(rest[: -(-length // 8)]).sum()) :].tobytes()
    riff = struct.pack("<4sI8sI", b"RIFF", len(frame) + 13 & -2, b"WEBPVP8 ", len(frame))
    image = np.asarray(Image.open(io.BytesIO(frame if frame[:4] == b"RIFF" else riff + frame + b"\0")))
    patches = image.reshape(len(image) // p, p, -1, p, 3).swapaxes(1, 2).reshape(-1, p, p, 3)
    return patches[keep if flags & 1 else slice(keep.sum())], np.flatnonzero(keep)


def sealed_segment(data: Path, records: list[Record], **settings: Any) -> Path:
    """The one segment of a store that was given these records, and closed."""
    with running(data, **settings) as client:
        put_buffer(client)
        assert push(client, records)["exemplar_ids"] == list(range(1, len(records) + 1))
    (path,) = (data / "segments").iterdir()
    assert re.fullmatch(r"[0-9a-f]{32}\.zarr\.zip", path.name)
    return path


def test_a_record_is_decoded_with_zarr_numpy_and_pillow(data: Path) -> None:
    records = [
        make_exemplar(class_id, rank, codec="webp", layout=None, kept=3 * rank + 1)
        for class_id in range(3)
        for rank in range(4)
    ]
    path = sealed_segment(data, records)
    for place, record in enumerate(records):
        patches, places = decode(str(path), place)
        np.testing.assert_array_equal(places, record.keep_indices)
        np.testing.assert_array_equal(patches, record.patches())


def test_the_columns_are_those_of_the_header_and_the_bytes_those_of_the_charge(data: Path) -> None:
    records = [
        make_exemplar(7, 0, learner_id="ann", phase=3),
        make_exemplar(8, 1, learner_id="bob", phase=4, pad=100),
        make_exemplar(9, 2, learner_id="ann", phase=5, num_tokens=0),
    ]
    store = zarr.storage.ZipStore(sealed_segment(data, records), mode="r")
    segment = zarr.open_group(store, mode="r")
    attributes = segment.attrs.asdict()
    owner: Any = attributes.pop("exemplar_memory_segment")
    assert owner.pop("created_at") > 0
    assert owner == {
        **{"name": "b", "draw_key": "", "eviction": "class_balanced", "budget_bytes": 1_000_000},
        **dict.fromkeys(("full_samples_per_class", "full_sample_bytes", "num_classes", "max_budget_bytes")),
        **dict.fromkeys(("disk_limit_bytes", "retain_snapshots", "learner_floor")),
        **{
            "patch_px": 4,
            "vocabulary": None,
            "vocabulary_name": "",
            "owner": "",
            "made_by": "",
            "version": 1,
            "next_exemplar_id": 4,
        },
    }
    assert attributes == {
        "exemplar_memory_format": 1,
        "learners": ["ann", "bob"],
        "codecs": {str(codec.number): codec.codec_id for codec in CODECS},
    }
    arrays = dict(segment.arrays())
    assert set(arrays) == {*(HEADER_DTYPE.names or ()), "body"}
    for name in HEADER_DTYPE.names or ():
        array = arrays[name]
        assert array.dtype == HEADER_DTYPE[name]
        assert array.shape == array.chunks == (3,)
        assert array.compressors == ()
    column: dict[str, Any] = {name: array[:] for name, array in arrays.items()}
    for name in ("class_id", "phase", "rank", "text_length", "patch_px", "flags", "crc32"):
        assert column[name].tolist() == [getattr(record, name) for record in records]
    assert column["score"].tolist() == [np.float32(record.score) for record in records]
    assert column["learner"].tolist() == [0, 1, 0]
    body = column["body"].tobytes()
    assert body == b"".join(record.body for record in records)
    ends = [*column["offset"][1:].tolist(), len(body)]
    for record, start, end, crc32 in zip(records, column["offset"].tolist(), ends, column["crc32"], strict=True):
        assert zlib.crc32(body[start:end]) == crc32
        assert HEADER_BYTES + end - start == record.charge
    store.close()


def test_opening_reads_one_entry_of_the_zip_and_every_entry_is_sound(data: Path) -> None:
    path = sealed_segment(data, [make_exemplar()])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        names = [entry.filename for entry in archive.infolist()]
    columns = [*(HEADER_DTYPE.names or ())]
    documents = ["zarr.json", *(f"{name}/zarr.json" for name in [*columns, "body"])]
    # The bodies first, so that a file can grow; docs/format.md has the order.
    assert names == ["body/c/0", *documents, *(f"{name}/c/0" for name in columns)]
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    assert group.metadata.consolidated_metadata is not None
    # Without the consolidated copy it reads the same.
    plain = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r", use_consolidated=False)
    assert {name: array.metadata for name, array in plain.arrays()} == {
        name: array.metadata for name, array in group.arrays()
    }


def test_an_open_segment_is_38_bytes_and_its_bodies(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    records = [make_exemplar(7, rank, learner_id=f"l{rank % 2}", pad=50 * rank) for rank in range(4)]
    push(client, records[:3])
    push(client, records[3:])
    (path,) = (data / "segments").iterdir()
    assert re.fullmatch(r"[0-9a-f]{32}\.open", path.name)
    bodies = [record.body for record in records]
    assert path.read_bytes() == bytes(38) + b"".join(bodies)
    with reading(data) as index:
        chunks = index.execute("SELECT first, headers, learners FROM open_rows ORDER BY first").fetchall()
    assert [(first, json.loads(learners)) for first, _, learners in chunks] == [(0, ["l0", "l1"]), (3, [])]
    headers = np.frombuffer(b"".join(chunk for _, chunk, _ in chunks), HEADER_DTYPE)
    ends = np.cumsum([len(body) for body in bodies])
    assert headers["offset"].tolist() == [0, *ends[:-1].tolist()]
    assert headers["crc32"].tolist() == [zlib.crc32(body) for body in bodies]
    assert headers["learner"].tolist() == [0, 1, 0, 1]
    assert headers["exemplar_id"].tolist() == [1, 2, 3, 4]


def test_sealing_changes_no_body_and_no_place(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(0, rank) for rank in range(5)])
        (before,) = (data / "segments").iterdir()
        content = before.read_bytes()
    (after,) = (data / "segments").iterdir()
    assert after.name.split(".")[0] == before.name.split(".")[0]
    assert after.read_bytes()[38:].startswith(content[38:])
    with running(data) as client:
        # A sealed file never changes again: what comes goes to another.
        sealed = after.read_bytes()
        push(client, [make_exemplar(1)])
        assert after.read_bytes() == sealed
        assert sorted(path.suffix for path in (data / "segments").iterdir()) == [".open", ".zip"]
        assert_consistent(client, data)


def test_a_large_push_is_cut_into_several_segments(data: Path) -> None:
    with running(data, segment_bytes=2**16) as client:
        put_buffer(client, 4 * 10**6)
        answer = push(client, [make_exemplar(rank=rank, pad=12_000) for rank in range(20)])
        assert answer["kept"] == 20
        files = list((data / "segments").iterdir())
        assert 4 <= len(files) <= 7
        # Their frames would be too much: such small ones stay open.
        assert {path.suffix for path in files} == {".open"}
        for path in files:
            # Full once it reaches the limit, which the last record may exceed.
            assert path.stat().st_size < 38 + 2**16 + 13_000
        assert_consistent(client, data)
        # One that is larger than a segment fits too.
        push(client, [make_exemplar(rank=30, pad=70_000)])
        assert_consistent(client, data)
    assert {path.suffix for path in (data / "segments").iterdir()} == {".zip"}
    assert len(segment_records(data)) == 21


def test_a_full_segment_is_sealed(data: Path) -> None:
    with running(data, segment_bytes=2**18) as client:
        put_buffer(client, 2 * 10**7)
        push(client, [make_exemplar(rank=rank, pad=12_000) for rank in range(30)])
        assert sorted(path.suffix for path in (data / "segments").iterdir()) == [".open", ".zip"]
        stats = assert_consistent(client, data)
        assert (stats["segments"], stats["open_segments"]) == (2, 1)
        # Record by record it comes to the same.
        for rank in range(30, 60):
            push(client, [make_exemplar(rank=rank, pad=12_000)])
        assert sorted(path.suffix for path in (data / "segments").iterdir()) == [".open", ".zip", ".zip"]
        assert_consistent(client, data)


def test_the_largest_values_of_every_column_survive(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    record = make_record(
        class_id=2**32 - 1,
        phase=2**16 - 1,
        rank=2**32 - 1,
        score=-3.4e38,
        learner_id="Z" * 64,
        patches=np.zeros((1, 255, 255, 3), np.uint8),
        keep_mask=np.eye(1, 255 * 255, dtype=bool).reshape(255, 255),
        codec=CODECS[0](),
        text_length=2**16 - 1,
        token_ids=np.array([2**16 - 1]),
        token_positions=np.array([2**16 - 2]),
    )
    (exemplar_id,) = push(client, [record])["exemplar_ids"]
    info = client.get(f"/v1/buffers/b/exemplars/{exemplar_id}").json()
    assert (info["class_id"], info["phase"], info["rank"]) == (2**32 - 1, 2**16 - 1, 2**32 - 1)
    assert (info["token_ids"], info["token_positions"]) == ([2**16 - 1], [2**16 - 2])
    assert info["score"] == record.score
    assert info["grid"] == [255, 255]
    assert info["charge"] == record.charge
