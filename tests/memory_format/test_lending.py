"""What client and service say to each other on one machine: it goes there and back, and nothing made up is believed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_format import FormatError
from memory_format.api.terms import MAX_SAMPLE
from memory_format.lending import (
    ANSWER,
    HTTP,
    MOST_ANSWER_BYTES,
    MOST_DESCRIPTORS,
    ROW_DTYPE,
    ROWS,
    LentRows,
    decode_rows,
    encode_message,
    encode_rows,
)


def lent(count: int = 5, donors: int = 2, segments: int = 3, learners: int = 2) -> LentRows:
    rng = np.random.default_rng(count)
    rows = np.zeros(count + donors, ROW_DTYPE)
    rows["exemplar_id"] = rng.integers(1, 2**63, len(rows), dtype=np.uint64)
    rows["crc32"] = rng.integers(0, 2**32, len(rows), dtype=np.uint64)
    rows["length"] = rng.integers(0, 20_000, len(rows))
    rows["segment"] = rng.integers(0, segments, len(rows))
    rows["learner"] = rng.integers(0, learners, len(rows))
    swapped = np.sort(rng.permutation(count)[:donors]).astype(np.uint32)
    return LentRows(2**63 - 1, 1.5, rows, swapped, [f"learner-{number}" for number in range(learners)], segments)


@pytest.mark.parametrize("given", [lent(), lent(1, 0, 1, 1), lent(4096, 4096, 2048, 64)])
def test_rows_are_read_as_they_were_written(given: LentRows) -> None:
    answer = encode_rows(given)
    assert len(answer) <= MOST_ANSWER_BYTES
    read = decode_rows(answer)
    assert (read.version, read.num_segments, list(read.learner_ids)) == (
        given.version,
        given.num_segments,
        list(given.learner_ids),
    )
    assert read.rows.dtype == ROW_DTYPE
    assert read.rows.tobytes() == given.rows.tobytes()
    assert read.swapped.tolist() == given.swapped.tolist()
    assert read.num_records == len(given.rows) - len(given.swapped)


def changed(name: str, value: int) -> bytes:
    rows = lent()
    rows.rows[name][3] = value
    return encode_rows(rows)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "0 bytes are too few"),
        (encode_message(HTTP, b"no"), "it is b'HTTP'"),
        (encode_rows(lent())[:-1], "bytes, "),
        (encode_rows(lent()) + b"x", "bytes, "),
        (ANSWER.pack(ROWS, 0, 1, 2.5, 5, 0, 1), "0 bytes|too few for 5 rows"),
        (ANSWER.pack(ROWS, 0, 1, 2.5, MAX_SAMPLE + 1, 0, 1), f"{MAX_SAMPLE + 1} rows"),
        (ANSWER.pack(ROWS, 0, 1, 2.5, 4, 3, 1), "3 of them for their text"),
        (ANSWER.pack(ROWS, 0, 1, 2.5, 4, 0, 0), "in 0 files"),
        (ANSWER.pack(ROWS, 0, 1, 2.5, 4, 0, MOST_DESCRIPTORS + 1), "files"),
        (changed("segment", 3), "names a file or learner that is not there"),
        (changed("learner", 2), "names a file or learner that is not there"),
        (changed("length", 2**24 + 1), "larger than they may be"),
        (encode_rows(LentRows(1, 2.5, lent().rows, np.array([3, 3], np.uint32), ["a", "b"], 3)), "do not ascend"),
        (encode_rows(LentRows(1, 2.5, lent().rows, np.array([3, 5], np.uint32), ["a", "b"], 3)), "do not ascend"),
    ],
)
def test_what_is_no_answer_is_refused_in_words(answer: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said) as caught:
        decode_rows(answer)
    assert caught.value.code == "invalid_batch"


def test_a_learner_id_that_is_no_ascii_is_refused() -> None:
    answer = bytearray(encode_rows(lent()))
    answer[-1] = 0xFF
    with pytest.raises(FormatError, match="ASCII"):
        decode_rows(bytes(answer))


@given(st.data())
def test_whatever_is_read_names_nothing_that_is_not_there(data: st.DataObject) -> None:
    answer = bytearray(encode_rows(lent()))
    for _ in range(data.draw(st.integers(1, 6))):
        answer[data.draw(st.integers(0, len(answer) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(answer)))
    answer = answer[:cut] if data.draw(st.booleans()) else answer
    try:
        read = decode_rows(bytes(answer))
    except FormatError:
        return
    assert 0 <= len(read.swapped) <= read.num_records <= MAX_SAMPLE
    assert (read.rows["segment"] < read.num_segments).all()
    assert (read.rows["learner"] < len(read.learner_ids)).all()
    assert (np.diff(read.swapped.astype(np.int64)) > 0).all()
    assert (read.swapped < read.num_records).all()
    assert int(read.rows["length"].sum(dtype=np.int64)) < 2**31
