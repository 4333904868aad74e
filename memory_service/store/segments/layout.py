"""The bytes of a segment file: a Zarr v3 group in an uncompressed ZIP, written by hand.

The bodies come first, so that a file can grow record by record; the columns, the metadata and the ZIP's
directory, together the *frame*, follow when the segment is sealed. docs/format.md describes the arrays;
tests/memory_service/test_segment_format.py reads them with plain zarr.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import CODECS, checksum
from memory_format.header import HEADER_DTYPE
from memory_format.text import read_json

FORMAT_VERSION: Final = 1

MAX_LEARNERS: Final = 65_536
"""That a uint16 tells apart."""

# What is read of a file that may come from anywhere. A segment's directory has 2,500 bytes; its JSON some 9,000, and 70
# for each learner, 11 for each class seen.
MAX_DIRECTORY_BYTES: Final = 64 * 1024
MAX_JSON_BYTES: Final = 32 * 1024 * 1024
MAX_JSON_BRACKETS: Final = 20_000

_ZARR_TYPES = {"<u8": "uint64", "<u4": "uint32", "<u2": "uint16", "<f4": "float32", "|u1": "uint8"}
BODY_ENTRY: Final = "body/c/0"

# ZIP records (APPNOTE.TXT 6.3, sections 4.3.7, 4.3.12 and 4.3.16), all entries stored, dated 1980-01-01 so that
# the same records make the same file. Sizes and CRCs are in front of every entry: not all readers take them behind it.
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION_NEEDED = 20
_DATE = 33

# What does not fit 32 bits is said in ZIP64's fields (4.3.14, 4.3.15 and 4.5.3), which only some readers know.
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_VERSION_NEEDED64 = 45
_IN_64 = 0xFFFFFFFF

BODY_AT: Final = _LOCAL.size + len(BODY_ENTRY)
"""Where the bodies begin in a file that this version writes: behind the ZIP's header of their entry."""


def seal_frame(
    headers: NDArray[np.void],
    learners: Sequence[str],
    body_bytes: int,
    body_crc32: int,
    attributes: Mapping[str, Any] | None = None,
) -> tuple[bytes, bytes]:
    """What makes a file of bodies a Zarr group: the first :data:`BODY_AT` bytes, and all that follows the
    bodies.

    Args:
        headers: ``(N,)`` of ``HEADER_DTYPE``, ``offset`` within the array ``body``.
        learners: what ``headers["learner"]`` points into.
        body_bytes: length of all bodies.
        body_crc32: CRC-32 of all bodies, end to end.
        attributes: more attributes of the group.
    """
    columns = {name: headers[name] for name in HEADER_DTYPE.names or ()}
    entries, tail = small_entries(columns, learners, body_bytes, attributes, BODY_AT + body_bytes)
    entries.insert(0, Entry(BODY_ENTRY, body_bytes, body_crc32, 0))
    first = local_header(BODY_ENTRY, body_bytes, body_crc32)
    return first, tail + zip_directory(entries, BODY_AT + body_bytes + len(tail))


@dataclass(frozen=True)
class Entry:
    """A file in a ZIP."""

    name: str
    size: int
    crc32: int
    at: int
    """Where its header begins."""


def small_entry(name: str, data: bytes, at: int) -> tuple[Entry, bytes]:
    """An entry that begins at ``at``, and its bytes there."""
    crc32 = checksum.crc32(data)
    return Entry(name, len(data), crc32, at), local_header(name, len(data), crc32) + data


def local_header(name: str, size: int, crc32: int) -> bytes:
    """What goes before the bytes of an entry."""
    extra, sizes, version = b"", size, _VERSION_NEEDED
    if size >= _IN_64:
        extra, sizes, version = _extra64(size, size), _IN_64, _VERSION_NEEDED64
    fields = (b"PK\x03\x04", version, 0, 0, 0, _DATE, crc32, sizes, sizes, len(name), len(extra))
    return _LOCAL.pack(*fields) + name.encode() + extra


def zip_directory(entries: Sequence[Entry], at: int) -> bytes:
    """The end of a ZIP whose directory begins at ``at``."""
    directory = bytearray()
    for entry in entries:
        large = [*[entry.size] * 2 * (entry.size >= _IN_64), *[entry.at] * (entry.at >= _IN_64)]
        extra, version = (_extra64(*large), _VERSION_NEEDED64) if large else (b"", _VERSION_NEEDED)
        size = min(entry.size, _IN_64)
        directory += _CENTRAL.pack(
            *(b"PK\x01\x02", version, version, 0, 0, 0, _DATE, entry.crc32, size, size),
            *(len(entry.name), len(extra), 0, 0, 0, 0, min(entry.at, _IN_64)),
        )
        directory += entry.name.encode() + extra
    end, size, count = at + len(directory), len(directory), len(entries)
    if at >= _IN_64:
        rest = _END64.size - 12
        version = _VERSION_NEEDED64
        directory += _END64.pack(b"PK\x06\x06", rest, version, version, 0, 0, count, count, size, at)
        directory += _LOCATOR64.pack(b"PK\x06\x07", 0, end, 1)
    directory += _END.pack(b"PK\x05\x06", 0, 0, count, count, size, min(at, _IN_64), 0)
    return bytes(directory)


def _extra64(*numbers: int) -> bytes:
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


def frame_bytes(num_records: int, learners: Sequence[str]) -> int:
    """An upper bound of the bytes that sealing adds to a file of bodies."""
    return 14_000 + HEADER_DTYPE.itemsize * num_records + sum(6 * len(learner) + 3 for learner in learners)


def small_entries(
    columns: Mapping[str, NDArray[Any]],
    learners: Sequence[str],
    body_bytes: int,
    attributes: Mapping[str, Any] | None,
    at: int,
) -> tuple[list[Entry], bytes]:
    """All files of a group but its bodies, as entries of a ZIP, and their bytes.

    Args:
        columns: array name -> its values.
        learners, body_bytes, attributes: see :func:`seal_frame`.
        at: where the first of them begins.
    """
    documents = {name: _array_metadata(values.dtype.str, len(values)) for name, values in columns.items()}
    documents["body"] = _array_metadata("|u1", body_bytes)
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            "exemplar_memory_format": FORMAT_VERSION,
            "learners": list(learners),
            "codecs": {str(codec.number): codec.codec_id for codec in CODECS},
            **(attributes or {}),
        },
        # So that opening the group reads one entry of the ZIP, not one an array.
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": documents},
    }
    files = {"zarr.json": _to_json(group)}
    files |= {f"{name}/zarr.json": _to_json(document) for name, document in documents.items()}
    files |= {f"{name}/c/0": np.ascontiguousarray(values).tobytes() for name, values in columns.items()}
    entries = []
    data = bytearray()
    for name, content in files.items():
        entry, piece = small_entry(name, content, at + len(data))
        entries.append(entry)
        data += piece
    return entries, bytes(data)


def _array_metadata(kind: str, length: int) -> dict[str, Any]:
    codec: dict[str, Any] = {"name": "bytes"}
    if np.dtype(kind).itemsize > 1:
        codec["configuration"] = {"endian": "little"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [length],
        "data_type": _ZARR_TYPES[kind],
        # A chunk has at least one cell, also of an array that has none.
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(length, 1)]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [codec],
        "attributes": {},
    }


def _to_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True)
class SegmentContents:
    """What a sealed segment, or an exported buffer, says of itself."""

    headers: NDArray[np.void]
    """``(N,)`` of ``HEADER_DTYPE``, but ``offset`` in the file and as uint64."""
    learners: list[str]
    lengths: NDArray[np.int64]
    attributes: dict[str, Any]


READ_DTYPE: Final = np.dtype(
    [(name, "<u8" if name == "offset" else HEADER_DTYPE[name].str) for name in HEADER_DTYPE.names or ()]
)


def plain_headers(stored: NDArray[np.void]) -> NDArray[np.void]:
    """Headers of a segment as they are outside of one: ``(N,)`` of ``HEADER_DTYPE``, ``offset`` and ``learner`` 0."""
    headers = stored.astype(HEADER_DTYPE)
    headers["offset"] = headers["learner"] = 0
    return headers


def read_contents(source: Path | BinaryIO) -> SegmentContents:
    """Read everything but the bodies; the ZIP's CRCs are checked.

    Memory: in proportion to its columns and its ``zarr.json``, which are as long in the file.

    Raises:
        ValueError: it is not a segment, or it is damaged; the message says how.
        OSError: it cannot be read.
    """
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            _expect_small_directory(file, size)
            with zipfile.ZipFile(file) as archive:
                _expect_stored(archive, size)
                attributes = _json(archive, "zarr.json")["attributes"]
                if attributes["exemplar_memory_format"] != FORMAT_VERSION:
                    raise ValueError(f"format {str(attributes['exemplar_memory_format'])[:20]!a} is not known here")
                learners = attributes["learners"]
                if len(learners) > MAX_LEARNERS or not all(isinstance(learner, str) for learner in learners):
                    raise ValueError(f"its learners are not at most {MAX_LEARNERS} names")
                body = archive.getinfo(BODY_ENTRY)
                columns = {name: _column(archive, name) for name in READ_DTYPE.names or ()}
                body_at = _data_at(archive, body)
        except (zipfile.BadZipFile, KeyError, TypeError, struct.error, NotImplementedError) as error:
            raise ValueError(f"not a whole segment: {type(error).__name__}: {error}") from error
    if body_at + body.file_size > size:
        raise ValueError("its bodies do not end within the file")
    num = len(columns["exemplar_id"])
    if any(len(values) != num for values in columns.values()):
        raise ValueError("its columns differ in length")
    headers = np.zeros(num, READ_DTYPE)
    for name, values in columns.items():
        headers[name] = values
    starts = headers["offset"].astype(np.int64)
    lengths = np.diff(np.append(starts, body.file_size))
    if num and (starts[0] != 0 or (lengths < 0).any()):
        raise ValueError("its offsets do not ascend within the bodies")
    if num and int(headers["learner"].max()) >= len(learners):
        raise ValueError("a record's learner is not in its list")
    headers["offset"] += np.uint64(body_at)
    return SegmentContents(headers, learners, lengths, attributes)


def _expect_small_directory(file: BinaryIO, size: int) -> None:
    """Before the directory is read, which is done in one go: it makes objects of ten times its size."""
    file.seek(max(0, size - _END64.size - _LOCATOR64.size - _END.size))
    tail = file.read()
    before, end = tail[: -_END.size], tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(b"PK\x05\x06") or end[-2:] != b"\0\0":
        raise ValueError("not a whole segment: a ZIP's directory is not at its end")
    num_bytes = _END.unpack(end)[5]
    if before[-_LOCATOR64.size :].startswith(b"PK\x06\x07"):
        at = _LOCATOR64.unpack(before[-_LOCATOR64.size :])[2]
        if at != size - _END64.size - _LOCATOR64.size - _END.size:
            raise ValueError("not a whole segment: its ZIP64 directory is not at its end")
        signature, *_, num_bytes, _ = _END64.unpack(before[: _END64.size])
        if signature != b"PK\x06\x06":
            raise ValueError("not a whole segment: its ZIP64 directory has no end")
    if num_bytes > MAX_DIRECTORY_BYTES:
        raise ValueError(f"a ZIP's directory of {num_bytes} bytes; a segment's has at most {MAX_DIRECTORY_BYTES}")


def _expect_stored(archive: zipfile.ZipFile, size: int) -> None:
    """What entries unpack to is bounded by what arrived, before any of them is read."""
    entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ValueError(f"its entry {entry.filename} is compressed or encrypted; entries are stored as they are")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries have more bytes than the file")
    if len(archive.namelist()) != len(set(archive.namelist())):
        raise ValueError("two of its entries have the same name")


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > MAX_JSON_BYTES:
        raise ValueError(f"its {name} has more than {MAX_JSON_BYTES} bytes")
    return bounded_json(archive.read(name), name)


def bounded_json(data: bytes, name: str) -> Any:
    """JSON of a file that may come from anywhere. Raises ``ValueError``: it is none, or takes too much memory."""
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"its {name} has more than {MAX_JSON_BYTES} bytes")
    # An empty list takes two bytes here and 64 in memory.
    if data.count(b"[") + data.count(b"{") > MAX_JSON_BRACKETS:
        raise ValueError(f"its {name} has more than {MAX_JSON_BRACKETS} brackets")
    return read_json(data)


def _column(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    kind = np.dtype(READ_DTYPE[name])
    data = archive.read(f"{name}/c/0")
    if name == "offset":
        # Four bytes in segments, eight in exports, which have no bound.
        metadata = _json(archive, f"{name}/zarr.json")
        kind = np.dtype(np.uint32 if metadata["data_type"] == "uint32" else np.uint64)
    if len(data) % kind.itemsize:
        raise ValueError(f"its column {name} has a length that is no multiple of {kind.itemsize}")
    return np.frombuffer(data, kind.newbyteorder("<"))


def _data_at(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    file = archive.fp
    assert file is not None
    file.seek(info.header_offset)
    header = _LOCAL.unpack(file.read(_LOCAL.size))
    return int(info.header_offset + _LOCAL.size + header[-2] + header[-1])
