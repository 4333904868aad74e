from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_format import HEADER_BYTES, FormatError, RawZstd, Record, WebP, make_record
from memory_format.body import MAX_EXTRAS_BYTES, count_parts, prefix_bytes, swap_text
from memory_format.extras import decode_extras, make_extras
from memory_format.header import FLAG_TYPED, FLAG_WIDE_TOKENS, HEADER_DTYPE, HeaderRow
from memory_format.record import check_record, headers_of, split_row
from memory_format.user_fields import written
from tests.memory_format.strategies import LOSSLESS, header_of, mutate, mutations, noise, records, smooth
from tests.memory_format.test_codecs import SMOOTH_PSNR_DB, psnr


def simple(**changes: Any) -> Record:
    arguments: dict[str, Any] = {
        "class_id": 3,
        "patches": noise((4, 8, 8, 3), 0),
        "keep_mask": np.array([[1, 0, 1], [0, 1, 1]], dtype=bool),
        "codec": RawZstd(),
        "layout": "strip",
        "token_ids": np.array([101, 7, 102]),
        "token_positions": np.array([0, 4, 9]),
        "text_length": 10,
    }
    return make_record(**{**arguments, **changes})


def row_of(header: np.void) -> HeaderRow:
    return cast(HeaderRow, header.item())


@given(records())
def test_header_and_body_hold_a_record_exactly(made: tuple[Record, dict[str, Any]]) -> None:
    record, _ = made
    record = replace(record, exemplar_id=2**63)
    for body in (record.body, memoryview(record.body), memoryview(b"x" + record.body + b"x")[1:-1]):
        split = split_row(row_of(header_of(record)), body, record.learner_id)
        assert split == record
        assert isinstance(split.payload, bytes)


@given(records(), records())
def test_a_swapped_text_is_that_of_the_other_record(
    made: tuple[Record, dict[str, Any]], donor_made: tuple[Record, dict[str, Any]]
) -> None:
    record, donor = made[0], donor_made[0]
    expected = replace(
        record,
        text_length=donor.text_length,
        token_mask_bytes=donor.token_mask_bytes,
        token_ids_bytes=donor.token_ids_bytes,
        feature_flags=record.feature_flags & FLAG_TYPED | donor.feature_flags & FLAG_WIDE_TOKENS,
    )
    header, body = swap_text(header_of(record), record.body, header_of(donor), donor.body)
    assert (header["text_length"], header["flags"], body) == (expected.text_length, expected.flags, expected.body)
    views = memoryview(record.body), memoryview(donor.body)
    assert swap_text(header_of(record), views[0], header_of(donor), views[1]) == (header, body)
    assert split_row(row_of(header), body, record.learner_id) == expected
    check_record(expected)


@given(st.lists(records().map(lambda made: made[0]), min_size=1, max_size=4))
def test_a_prefix_is_enough_to_count(several: list[Record]) -> None:
    headers = headers_of(several, [record.crc32 for record in several])
    lengths = prefix_bytes(headers)
    assert lengths.tolist() == [len(r.keep_mask_bytes) + len(r.token_mask_bytes) for r in several]
    for header, record, length in zip(headers, several, lengths.tolist(), strict=True):
        assert header == header_of(record)
        for prefix in (record.body[:length], memoryview(record.body)[:length], record.body):
            assert count_parts(header, prefix) == (record.num_kept, len(record.token_ids))
        with pytest.raises(FormatError, match="cut short"):
            count_parts(header, record.body[: length - 1])


def test_the_widest_masks_are_counted_right() -> None:
    record = simple(
        patches=noise((1, 8, 8, 3), 0),
        keep_mask=np.arange(255 * 255).reshape(255, 255) == 9,
        token_positions=np.array([0, 4, 65_534]),
        text_length=65_535,
    )
    assert prefix_bytes(headers_of([record], [0])).tolist() == [8129 + 8192]
    assert count_parts(header_of(record), record.body) == (1, 3)


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 12])
def test_texts_of_bodies_that_are_cut_short_are_not_swapped(cut: int) -> None:
    header, body = header_of(simple(arrays={"a": np.arange(3)})), simple(arrays={"a": np.arange(3)}).body
    for pair in ((body[:cut], body), (body, body[:cut])):
        with pytest.raises(FormatError) as caught:
            swap_text(header, pair[0], header, pair[1])
        assert caught.value.code == "corrupt_record"


@given(records())
def test_the_charge_is_every_byte_and_nothing_else(made: tuple[Record, dict[str, Any]]) -> None:
    record, _ = made
    assert record.body_bytes == len(record.body)
    assert record.charge == HEADER_BYTES + len(record.body) == header_of(record).nbytes + len(record.body)


@given(records(codecs=LOSSLESS))
def test_what_went_in_comes_out(made: tuple[Record, dict[str, Any]]) -> None:
    record, made_of = made
    keep_mask = made_of["keep_mask"]
    np.testing.assert_array_equal(record.patches(), made_of["patches"])
    np.testing.assert_array_equal(record.keep_mask, keep_mask)
    np.testing.assert_array_equal(record.keep_indices, np.flatnonzero(keep_mask))
    assert record.num_kept == keep_mask.sum()
    np.testing.assert_array_equal(record.token_ids, made_of["token_ids"])
    np.testing.assert_array_equal(record.token_positions, made_of["token_positions"])
    assert record.text_length == made_of["text_length"]
    assert record.user_json() == made_of["user_json"]
    assert record.fields() == made_of["fields"]
    assert list(map(type, record.fields().values())) == list(map(type, made_of["fields"].values()))
    arrays = record.arrays()
    assert list(arrays) == list(made_of["arrays"])
    for name, values in made_of["arrays"].items():
        np.testing.assert_array_equal(arrays[name], values)


@pytest.mark.parametrize("layout", ["mosaic", "in_place", "strip"])
@given(seed=st.integers(0, 500), quality=st.integers(80, 100))
def test_lossy_records_keep_their_psnr(layout: Any, seed: int, quality: int) -> None:
    """Half of a smooth picture, in patches of 16 px: the seams of a mosaic cost up to 8 dB."""
    image = smooth((96, 96), seed)
    keep_mask = np.zeros((6, 6), dtype=bool)
    keep_mask.flat[np.random.default_rng(seed).permutation(36)[:18]] = True
    patches = image.reshape(6, 16, 6, 16, 3).swapaxes(1, 2)[keep_mask]
    record = make_record(class_id=0, patches=patches, keep_mask=keep_mask, codec=WebP(quality=quality), layout=layout)
    assert psnr(record.patches(), patches) >= SMOOTH_PSNR_DB - 8


def test_a_record_that_is_not_smooth_on_float32_still_equals_itself() -> None:
    assert simple(score=0.1).score == float(np.float32(0.1))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"keep_mask": np.ones((2, 3), dtype=bool)}, "mask_mismatch"),
        ({"keep_mask": np.ones(4, dtype=bool)}, "mask_mismatch"),
        ({"keep_mask": np.zeros((2, 2), dtype=bool), "patches": noise((0, 8, 8, 3), 0)}, "mask_mismatch"),
        ({"patches": noise((4, 8, 7, 3), 0)}, "invalid_record"),
        ({"patches": np.zeros((4, 8, 8, 3))}, "invalid_record"),
        ({"token_positions": np.array([0, 4])}, "mask_mismatch"),
        ({"token_positions": np.array([4, 0, 9])}, "mask_mismatch"),
        ({"token_positions": np.array([0, 4, 10])}, "mask_mismatch"),
        ({"token_ids": np.array([1, 2, 2**32])}, "invalid_record"),
        ({"token_ids": np.array([-1, 2, 70_000])}, "invalid_record"),
        ({"text_length": 70_000}, "invalid_record"),
        ({"text_length": -1}, "invalid_record"),
        ({"class_id": -1}, "invalid_record"),
        ({"phase": 2**16}, "invalid_record"),
        ({"rank": 2**32}, "invalid_record"),
        ({"score": math.nan}, "invalid_record"),
        ({"score": 1e300}, "invalid_record"),
        ({"learner_id": ""}, "invalid_record"),
        ({"learner_id": "a/b"}, "invalid_record"),
        ({"learner_id": "a\n"}, "invalid_record"),
        ({"layout": "diagonal"}, "invalid_record"),
        ({"user_json": {"a": math.inf}}, "invalid_record"),
        ({"user_json": {"a": object()}}, "invalid_record"),
        ({"user_json": {"a": "\ud800"}}, "invalid_record"),
        ({"user_json": {"a": [[[[[[[[1]]]]]]]]}}, "invalid_record"),
        ({"user_json": {"a": "x" * MAX_EXTRAS_BYTES}}, "invalid_record"),
        ({"arrays": {"logits": np.array([1e6])}}, "invalid_record"),
        ({"arrays": {"logits": [1e39]}, "array_dtypes": {"logits": "float32"}}, "invalid_record"),
        ({"arrays": {"logits": [1]}, "array_dtypes": {"logits": "float64"}}, "invalid_record"),
        ({"arrays": {"state": [256]}, "array_dtypes": {"state": "uint8"}}, "invalid_record"),
        ({"arrays": {"state": [-1]}, "array_dtypes": {"state": "uint8"}}, "invalid_record"),
        ({"arrays": {"state": [0.5]}, "array_dtypes": {"state": "uint8"}}, "invalid_record"),
        ({"arrays": {"state": [math.nan]}, "array_dtypes": {"state": "uint8"}}, "invalid_record"),
        ({"arrays": {"logits": [1]}, "array_dtypes": {"features": "float32"}}, "invalid_record"),
        ({"array_dtypes": {"features": "float32"}}, "invalid_record"),
        ({"fields": [1]}, "invalid_record"),
        ({"fields": {"": 1}}, "invalid_record"),
        ({"fields": {"a b": 1}}, "invalid_record"),
        ({"fields": {"0": 1}}, "invalid_record"),
        ({"fields": {"a" * 33: 1}}, "invalid_record"),
        ({"fields": {"a": None}}, "invalid_record"),
        ({"fields": {"a": [1]}}, "invalid_record"),
        ({"fields": {"a": math.nan}}, "invalid_record"),
        ({"fields": {"a": 2**63}}, "invalid_record"),
        ({"fields": {"a": "x" * 129}}, "invalid_record"),
        ({"fields": {"a": "\0"}}, "invalid_record"),
        ({"fields": {f"a{number}": number for number in range(17)}}, "invalid_record"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(FormatError) as caught:
        simple(**changes)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"keep_mask_bytes": b"\xff"}, "mask_mismatch"),
        ({"keep_mask_bytes": b"\xfc"}, "payload_mismatch"),
        ({"keep_mask_bytes": b"\x00"}, "mask_mismatch"),
        ({"keep_mask_bytes": b"\xac\x00"}, "mask_mismatch"),
        ({"token_mask_bytes": b"\xff\xc0"}, "mask_mismatch"),
        ({"token_ids_bytes": b"\x01\x02\x03"}, "mask_mismatch"),
        ({"feature_flags": FLAG_WIDE_TOKENS}, "mask_mismatch"),
        ({"feature_flags": FLAG_WIDE_TOKENS, "token_ids_bytes": b"\xff\xff\0\0" * 3}, "invalid_record"),
        ({"feature_flags": FLAG_TYPED}, "invalid_record"),
        ({"feature_flags": FLAG_TYPED, "extras": b'{"user":{"a":1},"arrays":{"a":[1]}}\n\0\0'}, "invalid_record"),
        ({"extras": b'{"user":{},"arrays":{"a":["f4",1]}}\n\0\0\0\0'}, "invalid_record"),
        ({"feature_flags": 64}, "invalid_record"),
        ({"payload": b"not an image"}, "invalid_payload"),
        ({"codec_id": "em_webp"}, "invalid_payload"),
        ({"codec_id": "jpeg"}, "unknown_codec"),
        ({"patch_px": 16}, "payload_mismatch"),
        ({"patch_px": 0}, "invalid_record"),
        ({"grid": (0, 6)}, "invalid_record"),
        ({"grid": (256, 6)}, "invalid_record"),
        ({"extras": b"{}"}, "invalid_record"),
        ({"extras": b"x" * (MAX_EXTRAS_BYTES + 1)}, "invalid_record"),
        ({"payload": b"\x10\x00\x10\x00" + b"\x28\xb5\x2f\xfd" + b"x" * (17 << 20)}, "invalid_record"),
        ({"keep_mask_bytes": b"\xad"}, "mask_mismatch"),
        ({"token_mask_bytes": b"\x88\x41", "token_ids_bytes": b"\1\0" * 4}, "mask_mismatch"),
        ({"layout": "diagonal"}, "invalid_record"),
        ({"text_length": 2**16}, "invalid_record"),
        ({"text_length": -1}, "invalid_record"),
        ({"patch_px": 256}, "invalid_record"),
        ({"patch_px": -1}, "invalid_record"),
        ({"grid": (2, 0)}, "invalid_record"),
        ({"class_id": 2**32}, "invalid_record"),
        ({"phase": 2**16}, "invalid_record"),
        ({"rank": -1}, "invalid_record"),
        ({"exemplar_id": -1}, "invalid_record"),
        ({"exemplar_id": 2**64}, "invalid_record"),
        ({"score": math.inf}, "invalid_record"),
        ({"score": 1e39}, "invalid_record"),
        ({"learner_id": "a" * 65}, "invalid_record"),
    ],
)
def test_records_from_elsewhere_are_checked(changes: dict[str, Any], code: str) -> None:
    check_record(simple())
    with pytest.raises(FormatError) as caught:
        check_record(replace(simple(), **changes))
    assert caught.value.code == code


def test_checking_keeps_no_unpacked_mask() -> None:
    record = replace(simple())
    check_record(record)
    assert "keep_mask" not in vars(record)


@given(records(), mutations)
def test_damaged_bodies_raise_only_format_errors(
    made: tuple[Record, dict[str, Any]], damage: list[tuple[str, float, float, bytes]]
) -> None:
    record, _ = made
    with contextlib.suppress(FormatError):
        damaged = split_row(row_of(header_of(record)), mutate(record.body, damage), record.learner_id)
        check_record(damaged)
        damaged.patches()
        damaged.arrays()


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES), st.binary(max_size=300))
def test_random_headers_raise_only_format_errors(header: bytes, body: bytes) -> None:
    with contextlib.suppress(FormatError):
        check_record(split_row(row_of(np.frombuffer(header, dtype=HEADER_DTYPE)[0]), body, "someone"))


def test_flags_of_a_newer_version_are_refused() -> None:
    header = header_of(simple())
    header["flags"] |= 128
    with pytest.raises(FormatError, match="newer version"):
        split_row(row_of(header), simple().body, "someone")


@pytest.mark.parametrize(
    "extras",
    [
        b"x",
        b"\n",
        b"{}\n",
        b"[]\n",
        b'{"user":{},"arrays":{}}',
        b'{"user":[],"arrays":{}}\n',
        b'{"user":{"a":NaN},"arrays":{}}\n',
        b'{"user":{"a":1e999},"arrays":{}}\n',
        b'{"user":{"a":"\\ud800"},"arrays":{}}\n',
        b'{"user":{"a":' + b"9" * 5000 + b'},"arrays":{}}\n',
        b'{"user":{},"arrays":{"a":[2]}}\n\x00\x00',
        b'{"user":{},"arrays":{"a":[1]}}\n\x00\x00\x00',
        b'{"user":{},"arrays":{"a":[-1]}}\n',
        b'{"user":{},"arrays":{"a":[true]}}\n\x00\x00',
        b'{"user":{},"arrays":{"a":""}}\n\x00\x00',
        b'{"user":{},"arrays":{"a":{}}}\n\x00\x00',
        b'{"user":{},"arrays":{"a":7}}\n',
        b'{"user":{},"arrays":{"a":["f4"]}}\n\0\0',
        b'{"user":{},"arrays":{"a":["u1",2]}}\n\0',
        b'{"user":{},"arrays":{"a":[["u1"],1]}}\n\0',
        b'{"user":{},"arrays":{},"fields":{"a":null}}\n',
        b'{"user":{},"arrays":{},"fields":[]}\n',
        b'{"user":{},"arrays":{"a":["f8",1]}}\n\0\0\0\0\0\0\0\0',
        b'{"user":{},"arrays":{"a":[1,"f4"]}}\n\0\0\0\0',
        b'{"user":{},"arrays":{"a":[4611686018427387904,4,0]}}\n',
        b'{"user":{},"arrays":{"a":' + str([1] * 65).encode() + b"}}\n\x00\x00",
        b'{"user":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b',"arrays":{}}\n',
        b'\xff{"user":{},"arrays":{}}\n',
    ],
)
def test_malformed_extras_are_refused(extras: bytes) -> None:
    with pytest.raises(FormatError):
        decode_extras(extras)


@given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
def test_random_extras_raise_only_format_errors(extras: bytes) -> None:
    for data in (extras, b'{"user":{"a":' + extras + b'},"arrays":{"a":' + extras + b"}}\n" + extras):
        with contextlib.suppress(FormatError):
            decode_extras(data)


def test_arrays_keep_their_shapes() -> None:
    arrays = {"logits": np.arange(6.0).reshape(2, 3), "none": np.zeros((0, 4)), "one": np.array(1.5)}
    back = decode_extras(make_extras({"k": [1, None]}, arrays, {"none": "float32", "one": "float32"}).encode())
    assert back.user == {"k": [1, None]}
    assert {name: (values.dtype.name, values.shape) for name, values in back.arrays.items()} == {
        "logits": ("float16", (2, 3)),
        "none": ("float32", (0, 4)),
        "one": ("float32", ()),
    }
    assert make_extras(None, None).encode() == make_extras({}, {}).encode() == b""


def test_float32_and_uint8_arrays_come_back_bit_for_bit_and_cost_their_bytes() -> None:
    values = np.array([math.pi, -0.0, math.inf, math.nan, 3e38, 1e-45], dtype=np.float32)
    record = simple(arrays={"logits": values}, array_dtypes={"logits": "float32"})
    assert record.arrays()["logits"].tobytes() == values.tobytes()
    assert record.charge - simple().charge == 4 + len(b'{"user":{},"arrays":{"logits":["f4",6]}}\n') + 6 * 4
    bytes_ = simple(arrays={"state": np.arange(256)}, array_dtypes={"state": "uint8"})
    assert bytes_.charge - simple().charge == 4 + len(b'{"user":{},"arrays":{"state":["u1",256]}}\n') + 256
    assert (bytes_.flags & FLAG_TYPED, bytes_.arrays()["state"].tolist()) == (FLAG_TYPED, list(range(256)))
    halves = simple(arrays={"logits": values[:4]})
    assert (halves.flags & FLAG_TYPED, halves.arrays()["logits"].dtype.name) == (0, "float16")


def test_a_uint8_array_is_written_so_for_ever_and_an_unknown_type_is_a_newer_versions() -> None:
    written = b'{"user":{},"arrays":{"state":["u1",2,2],"half":[1]}}\n\x00\x01\xfe\xff\x00>'
    arrays = {"state": [[0, 1], [254, 255]], "half": [1.5]}
    assert make_extras(None, arrays, {"state": "uint8"}).encode() == written
    assert {name: values.tolist() for name, values in decode_extras(written).arrays.items()} == arrays
    with pytest.raises(FormatError, match=r"types other than float16, float32, uint8: of a newer version\?"):
        decode_extras(written.replace(b'"u1"', b'"u2"'))


def test_fields_are_pythons_values_and_cost_their_bytes() -> None:
    record = simple(fields={"split": "train", "epoch": np.int64(3), "hard": np.bool_(True), "loss": np.float32(0.5)})
    assert record.fields() == {"split": "train", "epoch": 3, "hard": True, "loss": 0.5}
    said = b'{"user":{},"arrays":{},"fields":{"split":"train","epoch":3,"hard":true,"loss":0.5}}\n'
    assert (record.extras, record.charge - simple().charge) == (said, 4 + len(said))
    assert record.flags & FLAG_TYPED
    assert simple(fields={}).body == simple().body


def test_values_that_are_equal_are_written_alike() -> None:
    assert [written(value) for value in (3, 3.0, "3", True, "true", 2.5, -0.0, 2**60)] == [
        *("3", "3", "3", "true", "true", "2.5", "0", str(2**60))
    ]


def test_token_ids_take_two_bytes_where_they_fit_and_four_where_one_does_not() -> None:
    narrow, wide = simple(token_ids=np.array([1, 2, 65_535])), simple(token_ids=np.array([1, 2, 65_536]))
    assert (narrow.flags & FLAG_WIDE_TOKENS, wide.flags & FLAG_WIDE_TOKENS) == (0, FLAG_WIDE_TOKENS)
    assert wide.charge - narrow.charge == 3 * 2
    assert wide.token_ids.tolist() == [1, 2, 65_536]


def test_records_of_earlier_versions_are_made_of_the_same_bytes() -> None:
    """What this version makes of what earlier ones took is what they made, byte by byte."""
    record = simple(
        patches=np.zeros((4, 8, 8, 3), dtype=np.uint8),
        token_ids=np.array([101, 65_535, 7]),
        user_json={"a": 1},
        arrays={"logits": np.arange(3, dtype=np.float32) / 3, "n": np.array(2)},
    )
    assert record.flags == 6
    assert record.body[: -len(record.payload)].hex() == (
        "ac88406500ffff0700380000007b2275736572223a7b2261223a317d2c22617272617973223a7b226c6f67697473223a5b335d2c226e22"
        "3a5b5d7d7d0a0000553555390040"
    )
