"""Batches of exemplars that are decoded already are those that would be fetched and decoded, to the bit."""

from __future__ import annotations

import copy
import errno
import itertools
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from client import Buffer, MemoryClient, ReplayBatch
from client.cache import ExemplarCache, default_bytes, shared_cache
from client.dataset import ReplayDataset
from client.tensors import ARRAYS, TensorBatch
from memory_format import (
    AVIF,
    JPEG,
    FormatError,
    NotFoundError,
    Record,
    StorageError,
    WebP,
    WebPLossless,
    codec_available,
)
from tests.client.samples import make, make_many
from tests.client.script import Meddling
from tests.conftest import Service

MIB = 2**20


@pytest.fixture
def cache() -> ExemplarCache:
    return ExemplarCache(4 * MIB)


@pytest.fixture
def filled(buffer: Buffer) -> Buffer:
    buffer.push(make_many(40))
    return buffer


def assert_same(cached: ReplayBatch, plain: ReplayBatch) -> None:
    for name in ARRAYS:
        left, right = getattr(cached, name), getattr(plain, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)
    assert (cached.version, cached.patch_px, cached.has_pixels) == (plain.version, plain.patch_px, True)
    for mine, theirs in zip(cached.arrays(), plain.arrays(), strict=True):
        assert mine.keys() == theirs.keys()
        for name, values in mine.items():
            np.testing.assert_array_equal(values, theirs[name])


def check(buffer: Buffer, cache: ExemplarCache, batch_size: int = 16, steps: int = 6, **wanted: Any) -> None:
    """Draw the same batches with a cache and without, once as it fills and once when it has all of them."""
    for step in [*range(steps), *range(steps)]:
        plain = buffer.sample(batch_size, step=step, **wanted)
        assert_same(buffer.sample(batch_size, step=step, cache=cache, **wanted), plain)
    decoded = cache.decoded
    buffer.sample(batch_size, step=0, cache=cache, **wanted)
    assert cache.decoded == decoded, "what was decoded stays"


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"strategy": "class_balanced", "replace": False},
        {"strategy": "score_weighted", "class_id": [1, 2]},
        {"repair_text": 1.0},
        {"strategy": "class_balanced", "repair_text": 0.4, "learner_id": "learner-1"},
        {"repair_text": 0.5, "snapshot": "then"},
        {"batch_size": 1, "repair_text": 1.0},
        {"decode_threads": 3},
    ],
    ids=str,
)
def test_every_kind_of_draw_is_the_same(filled: Buffer, cache: ExemplarCache, wanted: dict[str, Any]) -> None:
    filled.take_snapshot("then")
    filled.push(make_many(9, first=40))
    filled.delete([1, 2, 3])
    check(filled, cache, **wanted)


@pytest.mark.parametrize("codec", [WebP(quality=30), WebPLossless(), JPEG(quality=50), "avif"], ids=str)
@pytest.mark.parametrize("layout", ["in_place", "mosaic", "strip"])
def test_every_codec_and_layout_is_the_same(buffer: Buffer, cache: ExemplarCache, codec: Any, layout: str) -> None:
    if codec == "avif":
        if not codec_available("em_avif"):
            pytest.skip("AVIF needs a library that is not installed")
        codec = AVIF(quality=40)
    buffer.push(make_many(12, codec=codec, layout=layout))
    check(buffer, cache, 8, 3)


def test_arrays_and_text_lengths_are_the_same(buffer: Buffer, cache: ExemplarCache) -> None:
    logits = [make(number, arrays={"logits": np.arange(1 + number)}) for number in range(8)]
    buffer.push(
        [*logits, *make_many(8, first=8, user_json=None), make(30, token_ids=None, token_positions=None, text_length=0)]
    )
    check(buffer, cache, repair_text=0.5)


def large(number: int, **changes: Any) -> Record:
    rng = np.random.default_rng(1000 + number)
    patches = rng.integers(0, 256, (2 + number % 5, 16, 16, 3), dtype=np.uint8)
    mask = np.zeros((4, 4), dtype=bool)
    mask.flat[: len(patches)] = True
    return make(number, patches=patches, keep_mask=mask, learner_id="large", **changes)


def test_buffers_of_several_patch_sizes_share_a_cache(
    memory: MemoryClient, filled: Buffer, cache: ExemplarCache
) -> None:
    other = memory.create_buffer(f"{filled.name}-large", budget_bytes=2_000_000)
    other.push([large(number) for number in range(6)])
    for _ in range(2):
        check(other, cache)
        check(filled, cache)


def test_scores_and_ranks_are_those_of_now(filled: Buffer, cache: ExemplarCache) -> None:
    filled.take_snapshot("then")
    check(filled, cache)
    ids = np.arange(1, 41)
    filled.update_scores(ids, scores=np.linspace(-1, 1, 40), ranks=ids + 100)
    check(filled, cache)
    check(filled, cache, snapshot="then")
    assert 30 < cache.decoded <= 40


def test_what_is_refused_is_refused_in_the_same_words(filled: Buffer, cache: ExemplarCache) -> None:
    for wanted in ({"class_id": 9}, {"version": 7}, {"snapshot": "none"}, {"strategy": "best"}, {"decode_threads": -1}):
        said = []
        for more in ({}, {"cache": cache}):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is, it is the same
                filled.sample(4, **wanted, **more)  # type: ignore[arg-type]
            said.append((type(caught.value), str(caught.value)))
        assert said[0] == said[1]


def test_a_batch_from_a_cache_has_pixels_and_no_records(filled: Buffer, cache: ExemplarCache) -> None:
    batch = filled.sample(8, cache=cache)
    with pytest.raises(ValueError, match="without cache="):
        _ = batch.records
    plain = filled.sample(8)
    for again in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch)):
        assert_same(again, plain)
    for mine, theirs in zip(batch.images(), plain.images(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    batch.patches[:] = 0  # the batch is the caller's own
    assert_same(filled.sample(8, cache=cache), plain)
    assert len(filled.sample(8, cache=cache, pixels=False).records) == 8


def test_a_record_that_goes_after_it_was_drawn_gives_the_batch_of_now(filled: Buffer, cache: ExemplarCache) -> None:
    network = Meddling(lambda: filled.delete(range(1, 40)))
    with MemoryClient(filled.client.url, transport=network) as other:
        buffer = Buffer(other, filled.name)
        batch = buffer.sample(30, cache=cache)
        assert_same(batch, filled.sample(30))
        assert set(batch.exemplar_id.tolist()) == {40}
        assert network.asked == ["v1", "sample", "records", "sample"]
        assert_same(buffer.sample(30, cache=cache), batch)


def test_where_too_few_are_left_to_draw_again_that_is_said(filled: Buffer, cache: ExemplarCache) -> None:
    network = Meddling(lambda: filled.delete([7]))
    with MemoryClient(filled.client.url, transport=network) as other, pytest.raises(FormatError, match="39 match"):
        Buffer(other, filled.name).sample(40, replace=False, cache=cache)


def test_a_snapshot_keeps_what_goes_meanwhile(filled: Buffer, cache: ExemplarCache) -> None:
    filled.take_snapshot("then")
    network = Meddling(lambda: filled.delete(range(1, 40)))
    with MemoryClient(filled.client.url, transport=network) as other:
        batch = Buffer(other, filled.name).sample(30, snapshot="then", cache=cache)
    assert_same(batch, filled.sample(30, snapshot="then"))
    assert network.asked == ["v1", "sample", "records"]


def test_a_buffer_made_anew_under_the_same_name(memory: MemoryClient, filled: Buffer, cache: ExemplarCache) -> None:
    filled.sample(40, replace=False, cache=cache)

    def renew() -> None:
        memory.delete_buffer(filled.name)
        memory.create_buffer(filled.name, budget_bytes=1_000_000).push(make_many(40, first=40))

    renew()
    check(filled, cache)
    network = Meddling(renew)
    with MemoryClient(filled.client.url, transport=network) as other:
        assert_same(Buffer(other, filled.name).sample(20, cache=ExemplarCache(MIB)), filled.sample(20))
    with pytest.raises(NotFoundError):
        Buffer(memory, "never").sample(1, cache=cache)


def test_a_store_put_back_from_a_copy_gives_ids_again(
    start_service: Callable[..., Service], tmp_path: Path, cache: ExemplarCache
) -> None:
    service = start_service(tmp_path / "store")
    port = service.url.rpartition(":")[2]
    with MemoryClient(service.url) as memory:
        memory.create_buffer("b", budget_bytes=1_000_000)
    service.stop()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    for store, label in (("store", 1), ("copy", 2)):
        service = start_service(tmp_path / store, "--port", port)
        with MemoryClient(service.url) as memory:
            buffer = memory.buffer("b")
            # The same pictures with other labels: bodies of the same bytes, under the same ids.
            buffer.push(make_many(8, class_id=label))
            check(buffer, cache, 8, replace=False)
            assert set(buffer.sample(8, cache=cache).class_id.tolist()) == {label}
        service.stop()


@pytest.mark.parametrize("steps", [30])
def test_a_cache_that_is_full_goes_on(buffer: Buffer, steps: int) -> None:
    cache = ExemplarCache(MIB)
    patches = np.zeros((4, 96, 96, 3), np.uint8)  # 110 kB, of which a handful fit
    mask = np.ones((2, 2), dtype=bool)
    buffer.push([make(number, patches=patches + number, keep_mask=mask) for number in range(20)])
    for step in range(steps):
        assert_same(
            buffer.sample(4, step=step, cache=cache, repair_text=0.2), buffer.sample(4, step=step, repair_text=0.2)
        )
    assert cache.found > 10
    assert cache.decoded > 20
    assert os.fstat(cache._arena.descriptor).st_size == MIB


def test_a_cache_smaller_than_a_batch_says_so_once_and_gives_right_ones(
    buffer: Buffer, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ExemplarCache(MIB)
    patches = np.zeros((4, 96, 96, 3), np.uint8)
    mask = np.ones((2, 2), dtype=bool)
    buffer.push([make(number, patches=patches + number, keep_mask=mask) for number in range(20)])
    with caplog.at_level(logging.WARNING, "client.cache"):
        for step in range(4):
            batch = buffer.sample(16, replace=False, step=step, cache=cache)
            assert_same(batch, buffer.sample(16, replace=False, step=step))
    (message,) = caplog.messages
    assert "1048576 bytes is less than one batch, which takes 1769472" in message


def test_what_others_write_over_while_it_is_copied_is_fetched_again(
    filled: Buffer, cache: ExemplarCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = filled.sample(16, step=1)
    filled.sample(40, replace=False, cache=cache)
    gather = ExemplarCache.gather

    def overtaken(self: ExemplarCache, *arguments: Any) -> list[int]:
        for number in range(100):
            self.put(0, number, 0, b"", np.zeros(100_000, np.uint8))
        return gather(self, *arguments)

    monkeypatch.setattr(ExemplarCache, "gather", overtaken)
    assert_same(filled.sample(16, step=1, cache=cache), plain)
    assert cache.decoded > 40


def test_without_room_where_the_file_lies_batches_are_right(
    filled: Buffer, cache: ExemplarCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("client._arena.os.pwritev", lambda *_: 7)
    with caplog.at_level(logging.WARNING, "client.cache"):
        for step in range(3):
            assert_same(filled.sample(16, step=step, cache=cache), filled.sample(16, step=step))
    assert [("not kept" in message) for message in caplog.messages] == [True]


def test_a_damaged_record_is_corrupt_and_one_that_is_decoded_already_is_not_read(
    start_service: Callable[..., Service], tmp_path: Path, cache: ExemplarCache
) -> None:
    service = start_service(tmp_path / "store")
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("b", budget_bytes=1_000_000)
        records = make_many(8)
        buffer.push(records)
        kept = buffer.sample(2, class_id=0, replace=False, cache=cache)
        (segment,) = (tmp_path / "store" / "segments").iterdir()
        content = bytearray(segment.read_bytes())
        for record in (records[0], records[1]):
            content[content.find(record.payload) + 5] ^= 1
        segment.write_bytes(content)
        with pytest.raises(StorageError) as caught:
            buffer.sample(8, replace=False, cache=cache)
        assert caught.value.code == "corrupt_record"
        np.testing.assert_array_equal(buffer.sample(2, class_id=0, replace=False, cache=cache).patches, kept.patches)


# The data set, and processes


def test_the_data_set_keeps_what_it_decoded(filled: Buffer) -> None:
    batches = list(ReplayDataset(filled, 16, num_steps=20, cache_bytes=3 * MIB, repair_text=0.5))
    again = ReplayDataset(filled, 16, num_steps=20, cache_bytes=3 * MIB, threads=3, repair_text=0.5)
    assert again.cache is not None
    before = again.cache.decoded
    for batch, same, plain in zip(
        batches, again, ReplayDataset(filled, 16, num_steps=20, cache_bytes=0, repair_text=0.5), strict=True
    ):
        assert_tensors_same(batch, plain)
        assert_tensors_same(same, plain)
        for name, tensor in same.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
    assert 0 < before == again.cache.decoded <= 80


def assert_tensors_same(left: TensorBatch, right: TensorBatch) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        torch.testing.assert_close(values, right[name], rtol=0, atol=0, equal_nan=True)


_sizes = itertools.count(5)


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
def test_worker_processes_hold_the_bytes_once(filled: Buffer, start: str) -> None:
    dataset = ReplayDataset(filled, 16, num_steps=24, cache_bytes=next(_sizes) * MIB)
    assert isinstance(dataset.cache, ExemplarCache)
    loader = DataLoader(dataset, batch_size=None, num_workers=4, multiprocessing_context=start)
    for batch, plain in zip(loader, ReplayDataset(filled, 16, num_steps=24, cache_bytes=0), strict=True):
        assert_tensors_same(batch, plain)
    arena = dataset.cache._arena
    with arena._locked():
        entries = list(arena._entries)
    drawn = {int(id_) for step in range(24) for id_ in filled.sample(16, step=step).exemplar_id}
    assert sorted(entry.exemplar_id for entry in entries) == sorted(drawn), "each is there, and once"
    assert dataset.cache.decoded == 0, "by the workers, not here"
    assert_same(filled.sample(16, cache=dataset.cache), filled.sample(16))
    assert dataset.cache.decoded == 0
    taken = os.fstat(arena.descriptor).st_blocks * 512
    pixels = sum(entry.pixel_bytes + entry.front_bytes for entry in entries)
    assert pixels <= taken <= pixels + 64 * len(entries) + 64 * 1024


def test_data_sets_of_one_size_share_a_cache_which_outlives_them(filled: Buffer) -> None:
    size = next(_sizes) * MIB
    first = ReplayDataset(filled, 4, cache_bytes=size).cache
    assert first is ReplayDataset(filled, 8, cache_bytes=size).cache
    number = id(first)
    del first
    assert id(shared_cache(size)) == number
    assert ReplayDataset(filled, 4, cache_bytes=0).cache is None
    default = ReplayDataset(filled, 4).cache
    assert default is not None
    assert default.num_bytes == default_bytes() <= 256 * MIB
    dataset = ReplayDataset(filled, 4, cache_bytes=size)
    assert copy.deepcopy(dataset.cache) is pickle.loads(pickle.dumps(dataset.cache)) is dataset.cache


def test_without_memory_to_share_nothing_is_kept_unless_it_was_asked_for(
    filled: Buffer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    size = next(_sizes) * MIB
    monkeypatch.setattr("client.cache.default_bytes", lambda: size)
    monkeypatch.setattr("client._arena.os.truncate", full)
    with caplog.at_level(logging.WARNING, "client.cache"):
        dataset = ReplayDataset(filled, 16, num_steps=3)
    assert dataset.cache is None
    assert [str(size) in message and "File too large" in message for message in caplog.messages] == [True]
    for batch, plain in zip(dataset, ReplayDataset(filled, 16, num_steps=3, cache_bytes=0), strict=True):
        assert_tensors_same(batch, plain)
    with pytest.raises(OSError, match="File too large"):
        ReplayDataset(filled, 16, cache_bytes=size)


@pytest.mark.parametrize("number", [-1, 1, MIB - 1, 2**60, 1.5, "256M", True])
def test_sizes_that_make_no_sense_are_refused(filled: Buffer, number: Any) -> None:
    with pytest.raises(ValueError, match="cache_bytes must be a whole number in"):
        ReplayDataset(filled, 4, cache_bytes=number)
