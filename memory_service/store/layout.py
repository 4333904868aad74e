"""The bytes of a segment file: a Zarr v3 group in an uncompressed ZIP, built by hand: zarr-python is slow.

docs/format.md describes the arrays; tests/memory_service/test_segment_format.py reads them with plain zarr.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import CODECS
from memory_format.record import HEADER_DTYPE

FORMAT_VERSION: Final = 1

_ZARR_TYPES = {"<u8": "uint64", "<u4": "uint32", "<u2": "uint16", "<f4": "float32", "|u1": "uint8"}


def build_segment(
    headers: NDArray[np.void], learner_ids: Sequence[str], bodies: Sequence[bytes]
) -> tuple[memoryview, int, NDArray[np.int64]]:
    """The file's bytes, where the array ``body`` begins in them, and where in it each body begins."""
    lengths = np.fromiter((len(body) for body in bodies), dtype=np.int64, count=len(bodies))
    starts = np.cumsum(lengths) - lengths
    learners = {learner_id: code for code, learner_id in enumerate(dict.fromkeys(learner_ids))}
    headers = headers.copy()
    headers["offset"] = starts
    headers["learner"] = [learners[learner_id] for learner_id in learner_ids]
    data, body_at = _build_zip(headers, list(learners), b"".join(bodies))
    return data, body_at, starts


def _build_zip(headers: NDArray[np.void], learners: list[str], body: bytes) -> tuple[memoryview, int]:
    columns: dict[str, tuple[str, int, bytes]] = {
        name: (HEADER_DTYPE[name].str, len(headers), np.ascontiguousarray(headers[name]).tobytes())
        for name in HEADER_DTYPE.names or ()
    }
    columns["body"] = ("|u1", len(body), body)
    documents = {name: _array_metadata(kind, length) for name, (kind, length, _) in columns.items()}
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {
            "exemplar_memory_format": FORMAT_VERSION,
            "learners": learners,
            "codecs": {str(codec.number): codec.codec_id for codec in CODECS},
        },
        # So that opening the group reads one entry of the ZIP, not one an array.
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": documents},
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        _add(archive, "zarr.json", _to_json(group))
        body_at = 0
        for name, (_, _, data) in columns.items():
            _add(archive, f"{name}/zarr.json", _to_json(documents[name]))
            _add(archive, f"{name}/c/0", data)
            body_at = out.tell() - len(data)
    return out.getbuffer(), body_at


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # A fixed date: the same records make the same file.
    archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def _array_metadata(kind: str, length: int) -> dict[str, Any]:
    codec: dict[str, Any] = {"name": "bytes"}
    if np.dtype(kind).itemsize > 1:
        codec["configuration"] = {"endian": "little"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [length],
        "data_type": _ZARR_TYPES[kind],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [length]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [codec],
        "attributes": {},
    }


def _to_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
