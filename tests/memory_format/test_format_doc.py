"""docs/format.md says what the code does, and its code runs."""

from __future__ import annotations

import inspect
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import httpx
import numcodecs
import numpy as np
import pytest
import zarr

from client import MemoryClient
from memory_format import (
    CODECS,
    HEADER_BYTES,
    JPEG,
    MEDIA_TYPE,
    RawZstd,
    TargetBytes,
    TargetGain,
    TargetPSNR,
    WebP,
    image_to_patches,
    lending,
    make_record,
)
from memory_format.body import MAX_BODY_BYTES, MAX_EXTRAS_BYTES
from memory_format.canvas import MAX_PIXELS, MAX_SIDE_PX
from memory_format.codecs.webp import _file_of as webp_file
from memory_format.extras import MAX_JSON_DEPTH, ArrayDtype, make_extras
from memory_format.header import (
    FLAG_EXTRAS,
    FLAG_IN_PLACE,
    FLAG_PARTS,
    FLAG_REVISED,
    FLAG_STRIP,
    FLAG_TYPED,
    FLAG_WIDE_TOKENS,
    HEADER_DTYPE,
    KNOWN_FLAGS,
)
from memory_format.parts import MAX_PARTS, MAX_PICTURES
from memory_format.wire import _MAX_BATCHES
from memory_format.wire_schema import SCHEMA, WIRE_VERSION
from memory_service.settings import Settings
from memory_service.store.segments.layout import BODY_AT
from tests.conftest import Service
from tests.memory_format.strategies import smooth

DOC = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


def section(title: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    return re.split(r"^#+ ", DOC.split(f"# {title}\n")[1], flags=re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    """Cells of the table under a heading, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_headers_columns_are_listed_in_order() -> None:
    names = {"u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "f4": "float32"}
    listed = [
        (name.strip().strip("`"), kind)
        for columns, kind, _ in rows(f"Header: {HEADER_BYTES} bytes")
        for name in columns.split(",")
    ]
    assert listed == [(name, names[HEADER_DTYPE[name].str[1:]]) for name in HEADER_DTYPE.names or ()]
    assert (FLAG_IN_PLACE, FLAG_EXTRAS, FLAG_STRIP) == (1, 2, 4)
    (words,) = (what for columns, _, what in rows(f"Header: {HEADER_BYTES} bytes") if columns == "`flags`")
    said = [1 << int(bit) for bit in re.findall(r"bit (\d)", words)]
    assert said == [flag for flag in (1 << bit for bit in range(8)) if flag & KNOWN_FLAGS]
    assert [int(flag) for flag, *_ in rows("What later versions added")] == [
        FLAG_TYPED,
        FLAG_WIDE_TOKENS,
        FLAG_PARTS,
        FLAG_REVISED,
    ]


def test_the_wire_columns_are_listed_in_order() -> None:
    kinds = {"string": "utf8", "float": "float32"}
    assert [(name.strip("`"), kind) for name, kind, _ in rows("The wire")] == [
        (field.name, kinds.get(str(field.type), str(field.type))) for field in SCHEMA
    ]
    assert MEDIA_TYPE in DOC
    assert f"`exemplar_memory_wire` = `{WIRE_VERSION}`" in section("The wire")


@pytest.mark.parametrize("user_json", [None, {"a": 1}])
@pytest.mark.parametrize("highest", [300, 152_000])
def test_a_body_is_taken_apart_as_the_document_says(user_json: dict[str, Any] | None, highest: int) -> None:
    record = make_record(
        class_id=0,
        patches=np.zeros((3, 8, 8, 3), dtype=np.uint8),
        keep_mask=np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 1]], dtype=bool),
        codec=WebP(),
        token_ids=np.array([7, highest]),
        token_positions=np.array([2, 16]),
        text_length=20,
        user_json=user_json,
    )
    places = {
        "body": record.body,
        "keep": 2,
        "ids": 2 + 3,
        "rest": 2 + 3 + (4 if highest > 0xFFFF else 2) * 2,
        "E": len(record.extras),
    }
    slices = [(part, cells[user_json is not None]) for part, *cells in rows("Taking a body apart")]
    parts = {part: eval(cell.strip("`"), places) for part, cell in slices if cell}
    length = {"E, the extras' length, at least 1": len(record.extras).to_bytes(4, "little"), "extras": record.extras}
    assert parts == {
        "keep mask": record.keep_mask_bytes,
        "token mask": record.token_mask_bytes,
        "token ids": record.token_ids_bytes,
        **(length if user_json else {}),
        "payload": record.payload,
    }


def test_the_codecs_are_listed() -> None:
    assert [(int(number), name.strip("`"), exact) for number, name, _, exact in rows("Codecs")] == [
        (codec.number, codec.codec_id, "yes" if codec.lossless else "no") for codec in CODECS
    ]


def test_the_limits_are_the_codes() -> None:
    limits = section("Limits")
    assert f"{MAX_SIDE_PX:,} px; {MAX_PIXELS:,} pixels" in limits
    for number in (f"{MAX_BODY_BYTES >> 20} MiB", f"{MAX_EXTRAS_BYTES >> 20} MiB"):
        assert number in limits
    assert f"at most {MAX_JSON_DEPTH} levels" in limits
    assert f"{MAX_PARTS:,} parts, {MAX_PICTURES} pictures among them" in limits
    assert f"{_MAX_BATCHES:,}" in limits
    assert f"the service {Settings.model_fields['max_batch_records'].default:,} a push" in limits
    bits = {name: 8 * HEADER_DTYPE[name].itemsize for name in HEADER_DTYPE.names or ()}
    for what, limit, *_ in rows("Limits"):
        for name in set(re.findall(r"`(\w+)`", what)) & bits.keys():
            assert limit == ("1..255" if bits[name] == 8 else f"below 2^{bits[name]}"), name


def test_qualities_are_written_as_the_document_says() -> None:
    known = {target.__name__: target for target in (TargetPSNR, TargetBytes, TargetGain)}
    for quality, configuration, _ in rows("Quality"):
        said = json.loads(configuration.strip("`"))
        codec: Any = numcodecs.get_codec(dict(said))
        assert codec.quality == eval(quality.strip("`"), {}, known)
        assert codec.get_config().items() >= said.items()


def test_the_types_of_arrays_are_listed() -> None:
    arrays = {dtype: np.ones(2) for dtype in get_args(ArrayDtype)}
    head, _ = make_extras(None, arrays, {dtype: dtype for dtype in arrays}).encode().split(b"\n", 1)
    said = {dtype: shape[0] for dtype, shape in json.loads(head)["arrays"].items()}
    documented = dict(re.findall(r'"name": \["(\w+)", \.\.\.shape\][^.]*? of (\w+)', section("Extras")))
    assert {dtype: word for word, dtype in documented.items()} | {"float16": 2} == said


def test_what_goes_over_the_socket_is_listed() -> None:
    text = section("A draw on one machine")
    assert f"`{lending.PREFACE.decode()}`" in text
    assert f"A row is {lending.ROW_DTYPE.itemsize} bytes" in text
    listed = [cells[0].strip("`") for cells in rows("A draw on one machine")]
    kinds = (lending.AUTH, lending.DRAW, lending.DONE, lending.HELO, lending.ROWS, lending.HTTP)
    assert [name for name in listed if name.isupper()] == [kind.decode() for kind in kinds]


def test_the_charge_of_the_example() -> None:
    record = make_record(
        class_id=0,
        patches=np.zeros((49, 16, 16, 3), dtype=np.uint8),
        keep_mask=np.ones((7, 7), dtype=bool),
        codec=WebP(),
        token_ids=np.arange(12),
        text_length=20,
    )
    assert record.charge - len(record.payload) + 640 == 713
    assert f"= {HEADER_BYTES} + length of the body" in DOC
    assert "= 713 bytes" in DOC


@pytest.fixture(scope="module")
def documented() -> Any:
    """``decode`` of the document's code block."""
    *_, block = re.findall(r"```python\n(.*?)```", DOC, flags=re.DOTALL)
    body = block.split('"""')[2]
    assert len(body.strip().splitlines()) <= 13
    assert "does it in thirteen lines" in DOC
    namespace: dict[str, Any] = {}
    exec(compile(block, "docs/format.md", "exec"), namespace)
    return namespace["decode"], block


def test_the_code_of_the_document_decodes_what_the_service_wrote(
    documented: Any, start_service: Callable[..., Service], tmp_path: Path
) -> None:
    decode, _ = documented
    service = start_service()
    made = []
    for number, share in enumerate((0.3, 0.3, 0.7, 0.9, 0.3, 1.0)):
        keep_mask = np.random.default_rng(number).random((4 + number, 5)) < share
        keep_mask[0, 0] = True
        image = smooth((keep_mask.shape[0] * 16, 80), number)
        made.append(
            make_record(
                class_id=number,
                patches=image_to_patches(image, 16)[keep_mask.reshape(-1)],
                keep_mask=keep_mask,
                codec=WebP(quality=90),
                token_ids=np.arange(number),
                token_positions=np.arange(number) * 2,
                text_length=2 * number,
                layout="mosaic" if number == 4 else None,
            )
        )
    assert {record.layout for record in made} == {"strip", "mosaic", "in_place"}
    # As stores of earlier versions hold them.
    made.append(replace(made[0], payload=webp_file(made[0].payload)))
    patches, keep_mask = np.zeros((1, 16, 16, 3), dtype=np.uint8), np.ones((1, 1), dtype=bool)
    others: list[dict[str, Any]] = [{"codec": RawZstd()}, {"codec": JPEG()}, {"codec": WebP(), "user_json": {"a": 1}}]
    unread = [make_record(class_id=9, patches=patches, keep_mask=keep_mask, **other) for other in others]
    with MemoryClient(service.url) as memory:
        memory.create_buffer("documented", budget_bytes=10**6).push([*made, *unread])
    exported = tmp_path / "exported.zarr.zip"
    exported.write_bytes(httpx.get(f"{service.url}/v1/buffers/documented/export").content)
    # A clean end seals the segment.
    service.stop()
    (segment,) = (service.data / "segments").iterdir()
    for path in (segment, exported):
        for number, record in enumerate(made):
            patches, places = decode(str(path), number)
            np.testing.assert_array_equal(places, record.keep_indices)
            np.testing.assert_array_equal(patches, record.patches())
        for number in range(len(made), len(made) + len(unread)):
            with pytest.raises(ValueError, match=r"codec \d and flags \d; only em_webp \(2\) without extras"):
                decode(str(path), number)


def test_the_attributes_and_columns_of_an_export_are_listed(service: Service, tmp_path: Path) -> None:
    with MemoryClient(service.url) as memory:
        memory.create_buffer("listed", budget_bytes=10**6)
    path = tmp_path / "listed.zarr.zip"
    path.write_bytes(httpx.get(f"{service.url}/v1/buffers/listed/export").content)
    group = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")
    arrays = dict(group.arrays())
    text = section("The exported buffer")
    attributes: Any = group.attrs["exemplar_memory_buffer"]
    assert set(re.findall(r"`(\w+)`", text.split("`exemplar_memory_buffer`")[1].split("`decode`")[0])) == set(
        attributes
    )
    assert set(arrays) == {*(HEADER_DTYPE.names or ()), "body"}
    assert (arrays["offset"].dtype, "`offset` is uint64" in text) == (np.dtype(np.uint64), True)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[-1] == "body/c/0"


def test_where_an_open_segment_begins_is_said() -> None:
    assert f"header takes the first {BODY_AT} bytes" in " ".join(section("The segment file").split())


def test_the_services_own_test_runs_the_same_code(documented: Any) -> None:
    from tests.memory_service import test_segment_format

    after_docstring = inspect.getsource(test_segment_format.decode).split('"""')[2]
    assert after_docstring.strip() in documented[1]
