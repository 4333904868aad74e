"""Plain wrong arguments to every public method: an error in words, and none from somewhere inside."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client import Buffer, MemoryClient, ReplayBatch, Retries, ServiceError, Timeout
from client._params import BufferSettings
from memory_format import ExemplarMemoryError, FormatError
from tests.client.samples import make, make_many

# What somebody hands over who takes one thing for another. Each is wrong for most arguments, and right for some.
PLAIN: list[Any] = [
    None, "x", b"x", 3, -1, 2.5, float("nan"), True, 2**70, [], {}, [None], ["x"], [[1, 2], [3]], {3: 4}, object(),
    np.zeros(0), np.zeros((2, 2)), np.array(["a"]), np.array(3), "\ud800", "\0", "a/b", int, np.int64(3),
]  # fmt: skip

# As if from inside: about types, attributes or positions that the caller has never heard of.
INSIDE = ("has no attribute", "not supported between", "has no len", "invalid literal", "not iterable", "quote_from")


def assert_refused_in_words(call: Callable[[Any], object]) -> None:
    for value in PLAIN:
        try:
            call(value)
        except (ExemplarMemoryError, ServiceError, ValueError) as error:
            said = str(error)
        else:
            continue
        assert len(said) > 10
        assert not any(words in said for words in INSIDE), said


@pytest.fixture
def filled(buffer: Buffer) -> Buffer:
    buffer.push(make_many(10))
    buffer.take_snapshot("then")
    return buffer


def arguments_of(method: Callable[..., Any], *without: str) -> list[str]:
    return [name for name in inspect.signature(method).parameters if name not in ("self", "progress", "path", *without)]


@pytest.mark.parametrize("name", ["info", "stats", "snapshots"])
def test_names_of_buffers(memory: MemoryClient, name: str) -> None:
    assert_refused_in_words(lambda value: getattr(Buffer(memory, value), name)())
    assert_refused_in_words(memory.buffer)


@pytest.mark.parametrize("name", arguments_of(MemoryClient.create_buffer))
def test_create_buffer(memory: MemoryClient, name: str) -> None:
    right = {"name": "arguments", "budget_bytes": 1_000_000}
    assert_refused_in_words(lambda value: memory.create_buffer(**{**right, name: value}))


@pytest.mark.parametrize("name", BufferSettings.__annotations__)
def test_configure(filled: Buffer, name: str) -> None:
    assert_refused_in_words(lambda value: filled.configure(**{name: value}))


@pytest.mark.parametrize(
    ("method", "name"),
    [(method, name) for method in ("query", "records") for name in arguments_of(getattr(Buffer, method))],
)
def test_query_and_records(filled: Buffer, method: str, name: str) -> None:
    assert_refused_in_words(lambda value: list(getattr(filled, method)(**{name: value})))


@pytest.mark.parametrize("name", arguments_of(Buffer.sample))
def test_sample(filled: Buffer, name: str) -> None:
    assert_refused_in_words(lambda value: filled.sample(**{"batch_size": 2, name: value}))


@pytest.mark.parametrize("name", arguments_of(Buffer.push))
def test_push(filled: Buffer, name: str) -> None:
    assert_refused_in_words(lambda value: filled.push(**{"records": [make(1)], name: value}))
    assert_refused_in_words(lambda value: filled.push([make(1), value]))


@pytest.mark.parametrize(
    ("method", "name"),
    [(method, name) for method in ("get", "image") for name in arguments_of(getattr(Buffer, method))],
)
def test_get_and_image(filled: Buffer, method: str, name: str) -> None:
    assert_refused_in_words(lambda value: getattr(filled, method)(**{"exemplar_id": 1, name: value}))


@pytest.mark.parametrize("name", arguments_of(Buffer.update_scores))
def test_update_scores(filled: Buffer, name: str) -> None:
    assert_refused_in_words(lambda value: filled.update_scores(**{"exemplar_ids": [1], "scores": [0.5], name: value}))


@pytest.mark.parametrize("name", arguments_of(Buffer.delete))
def test_delete(filled: Buffer, name: str) -> None:
    assert_refused_in_words(lambda value: filled.delete(**{name: value}))


@pytest.mark.parametrize("method", ["take_snapshot", "snapshot", "delete_snapshot", "diff", "fork"])
def test_names_of_snapshots_and_forks(filled: Buffer, method: str) -> None:
    assert_refused_in_words(getattr(filled, method))


def test_exports_of_snapshots(filled: Buffer, tmp_path: Path) -> None:
    assert_refused_in_words(lambda value: filled.export(tmp_path / "b.zip", snapshot=value))


@pytest.mark.parametrize("name", ["timeout", "retries"])
def test_settings_of_a_client(name: str) -> None:
    assert_refused_in_words(lambda value: MemoryClient("127.0.0.1:9", **{name: value}))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in (Timeout, Retries) for name in inspect.signature(kind).parameters],
)
def test_timeouts_and_retries(kind: Any, name: str) -> None:
    assert_refused_in_words(lambda value: kind(**{name: value}))
    with pytest.raises(ValueError, match="got"):
        kind(**{name: None})


def test_batches_of_records() -> None:
    assert_refused_in_words(ReplayBatch.from_records)
    assert_refused_in_words(lambda value: ReplayBatch.from_records([make(1), value]))
    assert_refused_in_words(lambda value: ReplayBatch.from_records([make(1)], decode_threads=value))


def test_the_words_name_the_argument(filled: Buffer) -> None:
    with pytest.raises(FormatError, match="strategy cannot be b'uniform'"):
        filled.sample(4, strategy=b"uniform")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="repair_text cannot be nan"):
        filled.sample(4, repair_text=float("nan"))
    with pytest.raises(ValueError, match="limit must be a whole number"):
        filled.query(limit="all")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="record 3 is none of make_record, but None") as caught:
        filled.push([*make_many(3), None], max_batch_records=2)  # type: ignore[list-item]
    assert caught.value.details["records_acknowledged"] == 2
    assert caught.value.details["index"] == 3
    with pytest.raises(FormatError, match="iterable of records"):
        filled.push(make(1))  # type: ignore[arg-type]


def test_numpys_numbers_are_numbers(filled: Buffer) -> None:
    plain = filled.sample(4, seed=1, step=2, class_id=[1, 2])
    same = filled.sample(np.int64(4), seed=np.uint8(1), step=np.int32(2), class_id=np.array([1, 2]))  # type: ignore[arg-type]
    assert same.exemplar_id.tolist() == plain.exemplar_id.tolist()
    assert filled.get(np.int64(1)) is not None  # type: ignore[arg-type]


def test_a_picture_is_scaled_and_filled_as_asked(buffer: Buffer) -> None:
    ((exemplar_id,), record) = buffer.push([make(1)]).exemplar_ids, make(1)
    assert exemplar_id is not None
    height, width = (side * record.patch_px for side in record.grid)
    dropped = np.kron(~record.keep_mask, np.ones((3 * record.patch_px,) * 2, dtype=bool))
    for name, colour in (("grey", (211, 211, 211, 255)), ("black", (0, 0, 0, 255)), ("transparent", (0, 0, 0, 0))):
        picture = Image.open(io.BytesIO(buffer.image(exemplar_id, dropped=name, scale=3)))  # type: ignore[arg-type]
        assert picture.size == (3 * width, 3 * height)
        assert (np.asarray(picture.convert("RGBA"))[dropped] == colour).all()
    wrongs: list[dict[str, Any]] = [{"dropped": "pink"}, {"scale": 9}, {"scale": 0}]
    for wrong in wrongs:
        with pytest.raises(FormatError):
            buffer.image(exemplar_id, **wrong)
