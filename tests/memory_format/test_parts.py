"""Records of several pictures and texts."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_format import (
    HEADER_BYTES,
    FormatError,
    Picture,
    RawZstd,
    Record,
    TargetBytes,
    Text,
    WebP,
    check_batch,
    decode_batch,
    encode_batch,
    make_record_of_parts,
    read_batch,
)
from memory_format.body import check_payload, swap_text
from memory_format.canvas import default_layout
from memory_format.extras import decode_extras
from memory_format.header import FLAG_PARTS
from memory_format.parts import MAX_PARTS, MAX_PICTURES
from memory_format.record import check_record, headers_of, split_row
from tests.memory_format.strategies import LOSSLESS, header_of, mutate, mutations, noise, records_of_parts
from tests.memory_format.test_record import row_of, simple

Made = tuple[Record, list[Picture | Text]]


def picture(seed: int, kept: int = 3, grid: tuple[int, int] = (3, 4), patch_px: int = 4) -> Picture:
    keep_mask = np.zeros(grid, dtype=bool)
    keep_mask.flat[np.random.default_rng(seed).permutation(keep_mask.size)[:kept]] = True
    return Picture(noise((kept, patch_px, patch_px, 3), seed), keep_mask)


def dialogue(**fields: Any) -> Record:
    """Two pictures, four texts, a vocabulary of 152,000."""
    parts: list[Picture | Text] = [
        Text("system", np.array([151_643, 7])),
        Text("user", np.array([5, 6]), np.array([1, 3]), 6),
        picture(0),
        picture(1, kept=9, grid=(2, 5)),
        Text("assistant", np.array([151_999])),
        Text("user", np.array([], dtype=np.int64), text_length=2),
    ]
    return make_record_of_parts(parts, class_id=3, codec=RawZstd(), **fields)


def assert_same_parts(found: tuple[Picture | Text, ...], given: list[Picture | Text]) -> None:
    assert list(map(type, found)) == list(map(type, given))
    for one, other in zip(found, given, strict=True):
        if isinstance(one, Picture):
            assert isinstance(other, Picture)
            np.testing.assert_array_equal(one.patches, other.patches)
            np.testing.assert_array_equal(one.keep_mask, other.keep_mask)
            assert one.layout == (other.layout or default_layout(other.keep_mask, other.patches.shape[1]))
        else:
            assert isinstance(other, Text)
            positions = np.arange(len(other.token_ids)) if other.token_positions is None else other.token_positions
            length = len(other.token_ids) if other.text_length is None else other.text_length
            assert (one.role, one.text_length, one.token_ids.tolist()) == (other.role, length, other.token_ids.tolist())
            assert one.token_positions is not None
            assert one.token_positions.tolist() == positions.tolist()


@given(records_of_parts(LOSSLESS))
def test_what_went_in_comes_out_and_every_byte_is_charged(made: Made) -> None:
    record, parts = made
    (back,) = decode_batch(encode_batch([record]))
    assert back == record
    assert_same_parts(back.parts(), parts)
    batch = read_batch(encode_batch([record]))
    check_batch(batch)
    check_payload(batch.headers[0].item(), batch.bodies[0])
    assert record.charge == HEADER_BYTES + len(record.body)
    pictures = [part for part in parts if isinstance(part, Picture)]
    assert record.num_pictures == len(pictures)
    for place, given_ in enumerate(pictures):
        alone = record.picture(place)
        assert (alone.text_length, alone.flags & FLAG_PARTS, alone.num_pictures) == (0, 0, 1)
        check_record(alone)
        np.testing.assert_array_equal(record.image(picture=place), alone.image())
        assert alone.grid == given_.keep_mask.shape
    np.testing.assert_array_equal(record.patches(), pictures[0].patches)


@given(records_of_parts(), mutations)
def test_damaged_bodies_raise_only_format_errors(made: Made, damage: list[tuple[str, float, float, bytes]]) -> None:
    record, _ = made
    for extras, payload in (
        (mutate(record.extras, damage), record.payload),
        (record.extras, mutate(record.payload, damage)),
    ):
        with contextlib.suppress(FormatError):
            damaged = replace(record, extras=extras, payload=payload)
            check_record(damaged)
            damaged.parts()
    with contextlib.suppress(FormatError):
        damaged = split_row(row_of(header_of(record)), mutate(record.body, damage), record.learner_id)
        check_record(damaged)
        damaged.parts()


def test_a_dialogue_is_one_text_with_roles() -> None:
    record = dialogue(fields={"source": "web"}, arrays={"logits": [1.5]}, user_json={"a": 1})
    assert record.token_ids.tolist() == [151_643, 7, 5, 6, 151_999]
    assert record.token_positions.tolist() == [0, 1, 3, 5, 8]
    assert record.text_length == 2 + 6 + 1 + 2
    assert (record.fields(), record.user_json()) == ({"source": "web"}, {"a": 1})
    assert record.arrays()["logits"].tolist() == [1.5]
    said = [part.role if isinstance(part, Text) else part.keep_mask.shape for part in record.parts()]
    assert said == ["system", "user", (3, 4), (2, 5), "assistant", "user"]


def test_a_dialogue_that_was_stored_once_is_read_for_ever() -> None:
    """The file was made by the first version that had parts, fields, float32 arrays and wide ids."""
    (then,) = decode_batch((Path(__file__).parent.parent / "golden" / "parts.arrow").read_bytes())
    assert (then.flags & ~7, then.charge) == (8 | 16 | 32, HEADER_BYTES + 861)
    assert_same_parts(then.parts(), list(dialogue().parts()))
    assert then.fields() == {"split": "train", "epoch": 3, "hard": True, "loss": 0.5}
    assert {name: values.tobytes() for name, values in then.arrays().items()} == {
        "logits": np.array([0.1, 2.0], "<f4").tobytes(),
        "half": np.array([1.5], "<f2").tobytes(),
    }


def test_a_record_that_was_not_made_of_parts_has_its_picture_and_its_text() -> None:
    record = simple()
    shown, text = record.parts()
    assert isinstance(shown, Picture)
    assert isinstance(text, Text)
    np.testing.assert_array_equal(shown.patches, record.patches())
    assert (text.role, text.text_length, text.token_ids.tolist()) == ("", 10, [101, 7, 102])
    assert len(simple(token_ids=None, token_positions=None, text_length=0).parts()) == 1
    assert record.picture(0) is record
    with pytest.raises(FormatError, match=r"picture must be a whole number in 0\.\.0"):
        record.image(picture=1)


def test_texts_of_dialogues_are_not_swapped() -> None:
    several, one = dialogue(), simple()
    for record, donor in ((several, one), (one, several), (several, several)):
        header, body = swap_text(header_of(record), record.body, header_of(donor), donor.body)
        assert (header, body) == (header_of(record), record.body)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "parts need a picture"),
        ([Text("user", np.array([1]))], "parts need a picture"),
        (7, "a list of Picture and Text, got 7"),
        ([picture(0), "words"], "a list of Picture and Text"),
        ([picture(0), picture(1, patch_px=8)], "patches of one size, these have 4 and 8 px"),
        ([picture(0), Text("", np.array([1]))], r"a role is 1\.\.32"),
        ([picture(0), Text("a b", np.array([1]))], r"a role is 1\.\.32"),
        ([picture(0), Text(cast("Any", 5), np.array([1]))], r"a role is 1\.\.32 .*, got 5"),
        ([picture(0), Text("user", np.array([1]), np.array([2]), 2)], "token_positions must ascend"),
        ([replace(picture(0), patches=cast("Any", [0])), picture(1)], "patches must be a numpy array"),
        ([picture(0), replace(picture(1), keep_mask=np.ones((3, 4), bool))], "keeps 12 cells but there are 3"),
        ([picture(0), replace(picture(1), **cast("Any", {"layout": "diagonal"}))], "layout must be one of"),
        ([picture(0)] * (MAX_PICTURES + 1), f"1 to {MAX_PICTURES} pictures"),
        ([picture(0), *[Text("user", np.array([1]))] * MAX_PARTS], f"1 to {MAX_PARTS}"),
    ],
)
def test_what_makes_no_record_is_refused(parts: Any, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        make_record_of_parts(parts, class_id=0, codec=RawZstd())


def test_what_is_no_codec_is_refused() -> None:
    with pytest.raises(FormatError, match="codec must be one of"):
        make_record_of_parts([picture(0), picture(1)], class_id=0, codec=cast("Any", "em_webp"))


def test_a_target_in_bytes_is_for_one_picture() -> None:
    with pytest.raises(FormatError, match="for records of one picture"):
        make_record_of_parts([picture(0)], class_id=0, codec=WebP(quality=TargetBytes(500)))


@pytest.mark.parametrize(
    ("listed", "data"),
    [
        ("{}", b""),
        ("[]", b""),
        ("[[],[]]", b""),
        ("[[2,2,4,9]]", b"\xf0"),
        ("[[2,2,4,9],[]]", b"\xf0"),
        ("[[],[2,2,4,9]]", b""),
        ("[[],[2,2,4,9]]", b"\xf1"),
        ("[[],[2,2,4,9]]", b"\x00"),
        ("[[],[0,2,4,9]]", b"\xf0"),
        ("[[],[2,256,4,9]]", b"\xf0"),
        ("[[],[2,2,2,9]]", b"\xf0"),
        ("[[],[2,2,5,9]]", b"\xf0"),
        ("[[],[2,2,4,0]]", b"\xf0"),
        ("[[],[2,2,4,true]]", b"\xf0"),
        ("[[],[2,2,4]]", b"\xf0"),
        ('[[],["user",-1]]', b""),
        ('[[],["user",true]]', b""),
        ('[[],["",1]]', b""),
        ('[[],["user"]]', b""),
        ('[[],"user"]', b""),
        ("[[],null]", b""),
    ],
)
def test_malformed_parts_are_refused(listed: str, data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_extras(b'{"user":{},"arrays":{},"parts":' + listed.encode() + b"}\n" + data)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"feature_flags": 0}, "mask_mismatch"),
        ({"feature_flags": FLAG_PARTS | 16}, "invalid_record"),
        ({"payload": b"\0" * 8}, "invalid_payload"),
        ({"text_length": 12}, "mask_mismatch"),
    ],
)
def test_records_whose_parts_contradict_them_are_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(FormatError) as caught:
        check_record(replace(dialogue(), **changes))
    assert caught.value.code == code


@given(st.integers(0, 3))
def test_a_payload_of_another_size_is_found_whichever_picture_it_is_of(place: int) -> None:
    parts = [picture(number, kept=4 + number) for number in range(4)]
    record = make_record_of_parts(parts, class_id=0, codec=RawZstd())
    payloads = [record.picture(number).payload for number in range(4)]
    payloads[place] = bytes(len(payloads[place]))
    damaged = replace(record, payload=b"".join(payloads))
    with pytest.raises(FormatError) as caught:
        check_record(damaged)
    assert caught.value.code in ("invalid_payload", "payload_mismatch")
    assert headers_of([record], [0])["flags"][0] & FLAG_PARTS
