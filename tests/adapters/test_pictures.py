"""Pictures of libraries come back as they were; which exemplars are at hand changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from client import Buffer, MemoryClient, PushResult, ReplayBatch, Retries, ServiceError
from learner.adapters._exemplars import Exemplars
from learner.adapters._pictures import Kind, Recorder, pixels_of
from memory_format import BudgetError, FormatError, NotFoundError, Record, WebPLossless
from tests.client.link import Link
from tests.conftest import Service

_numbers = itertools.count()


def picture(number: int, height: int = 20, width: int = 33) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def samples() -> dict[str, Any]:
    pixels = picture(0)
    chw = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return {
        "pil": Image.fromarray(pixels),
        "pil of one channel": Image.fromarray(pixels[..., 0]),
        "array": pixels,
        "array of one channel": np.ascontiguousarray(pixels[..., 0]),
        "uint8": chw,
        "float": chw.float() / 255,
        "float of one channel": chw[:1].float() / 255,
    }


@pytest.mark.parametrize("name", samples())
def test_a_sample_comes_back_the_same(name: str) -> None:
    sample = samples()[name]
    kind = Kind.of(sample)
    record = Recorder(WebPLossless()).record(kind.pixels(sample), class_id=3, rank=1)
    assert (record.class_id, record.grid) == (3, (2, 3))
    (found,) = pixels_of(ReplayBatch.from_records([record]))
    again = kind.sample(found)
    assert type(again) is type(sample)
    if isinstance(sample, torch.Tensor):
        assert again.dtype == sample.dtype
        assert torch.equal(again, sample)
    else:
        assert np.array_equal(np.asarray(again), np.asarray(sample))


@pytest.mark.parametrize(
    "sample", [torch.zeros(4, 8, 8), torch.zeros(8, 8), np.zeros((8, 8)), Image.new("RGBA", (8, 8)), "a path"]
)
def test_what_is_no_picture_is_refused_in_words(sample: Any) -> None:
    with pytest.raises(FormatError, match="a picture of one or three channels is needed"):
        Kind.of(sample)


def test_pictures_that_are_normalised_already_are_refused() -> None:
    with pytest.raises(FormatError, match="before they are normalised"):
        Kind("float").pixels(torch.randn(3, 8, 8))
    with pytest.raises(FormatError, match="of kind"):
        Kind("float").pixels(torch.zeros(1, 8, 8))


def _answer(scores: Any, _: Any) -> Any:
    return scores


def test_masks_keep_the_size_of_a_picture_whatever_grid_they_have() -> None:
    pixels = picture(0)
    for scores in (np.eye(7), np.arange(20 * 33.0).reshape(20, 33)):
        recorder = Recorder(WebPLossless(), patch_px=4, masked=partial(_answer, scores), keep=0.25)
        record = recorder.record(pixels, class_id=0)
        assert record.num_kept == round(0.25 * 5 * 9)
        (found,) = pixels_of(ReplayBatch.from_records([record]))
        assert found.shape == pixels.shape
        same = (found == pixels).all(2)
        assert 0.2 < same.mean() < 0.3
    mask = np.zeros((5, 9), bool)
    mask[1, 2] = True
    record = Recorder(WebPLossless(), patch_px=4, masked=lambda _: mask).record(pixels, class_id=0)
    (found,) = pixels_of(ReplayBatch.from_records([record]))
    assert np.array_equal(found[4:8, 8:12], pixels[4:8, 8:12])
    with pytest.raises(FormatError, match=r"a cell for each patch of 4 px, \(5, 9\), got \(2, 2\)"):
        Recorder(patch_px=4, masked=lambda _: np.ones((2, 2), bool)).record(pixels, class_id=0)


@pytest.fixture
def buffer(service: Service) -> Any:
    with MemoryClient(service.url) as memory:
        yield memory.create_buffer(f"adapter-pictures-{next(_numbers)}", budget_bytes=10**6)


def exemplars_of(buffer: Buffer, cache_bytes: int | None) -> Exemplars[Any]:
    return Exemplars(buffer, pixels_of, lambda pixels: int(pixels.nbytes), cache_bytes=cache_bytes)


@pytest.mark.parametrize("cache_bytes", [None, 0, 3 * 20 * 33 * 3])
def test_what_is_kept_decoded_changes_nothing(buffer: Buffer, cache_bytes: int | None) -> None:
    recorder = Recorder(WebPLossless())
    held = exemplars_of(buffer, cache_bytes)
    ids = held.push([recorder.record(picture(n), class_id=0) for n in range(8)]).exemplar_ids.tolist()
    held.remove(ids[2:4])
    wanted = [7, 0, 7, 5]
    for _ in range(2):
        found = held.get([ids[n] for n in wanted], ahead=[ids[1]])
        assert all(np.array_equal(one, picture(n)) for one, n in zip(found, wanted, strict=True))
    with pytest.raises(NotFoundError):
        held.get([ids[2]])
    assert buffer.info().num_records == 6


def test_no_more_come_along_than_there_is_room_for(buffer: Buffer) -> None:
    decoded: list[int] = []

    def decode(batch: ReplayBatch) -> Any:
        decoded.append(len(batch))
        return pixels_of(batch)

    recorder, one = Recorder(WebPLossless()), 20 * 33 * 3
    held: Exemplars[Any] = Exemplars(buffer, decode, lambda pixels: int(pixels.nbytes), cache_bytes=3 * one + 50)
    buffer.push([recorder.record(picture(n), class_id=0) for n in range(8)])
    ids = [info.exemplar_id for info in buffer.query()]
    for wanted in ids:
        held.get([wanted], ahead=ids)
    # The first time nobody knows how large they are; what is left of the room is too small for one.
    assert decoded == [8, 1, 1, 1, 1, 1]
    held.push([recorder.record(picture(9), class_id=0)])
    assert len(decoded) == 6


@dataclass(frozen=True)
class Piecewise(Buffer):
    """Sends two records a request. ``at_fifth`` is called when the second request is next."""

    at_fifth: Callable[[], object] = bool

    def push(self, records: Any, **options: Any) -> PushResult:
        def told() -> Iterator[Record]:
            for number, record in enumerate(records):
                if number == 4:
                    self.at_fifth()
                yield record

        return super().push(told(), **options, max_batch_records=2)


def records(numbers: range) -> list[Record]:
    return [Recorder(WebPLossless()).record(picture(n), class_id=0) for n in numbers]


def test_a_push_of_several_requests_is_stored_whole_or_not_at_all(buffer: Buffer) -> None:
    few = records(range(2))
    buffer.configure(eviction="reject", budget_bytes=sum(record.charge for record in few) * 2 + 100)
    held = exemplars_of(Piecewise(buffer.client, buffer.name), None)
    (first,) = held.push(few[:1]).exemplar_ids.tolist()
    with pytest.raises(BudgetError):
        held.push(records(range(2, 7)))
    assert [info.exemplar_id for info in buffer.query()] == [first]
    assert np.array_equal(held.get([first])[0], picture(0))


def test_of_a_request_that_was_cut_where_the_disk_is_full_nothing_is_left(service: Service) -> None:
    """How it was cut depends on the room that there was, and need not come out so again."""
    given = records(range(14))
    budget = 10 * max(record.charge for record in given)
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer(
            f"adapter-pictures-{next(_numbers)}",
            budget_bytes=budget,
            disk_limit_bytes=budget * 3 // 2,
            eviction="reject",
        )
        held = exemplars_of(buffer, None)
        old = held.push(given[:5]).exemplar_ids.tolist()
        buffer.take_snapshot("keeps-them-on-disk")
        held.remove(old)
        with pytest.raises(BudgetError) as caught:
            held.push(given[5:])
        assert caught.value.code == "disk_limit_exceeded"
        assert 0 < caught.value.details["records_acknowledged"] < 9, "otherwise this tests nothing"
        assert buffer.info().num_records == 0
        buffer.configure(disk_limit_bytes=10 * budget)
        assert (held.push(given[5:]).exemplar_ids >= 0).all()
        assert buffer.info().num_records == 9


@pytest.mark.parametrize("same", [True, False])
def test_a_push_that_broke_off_leaves_nothing_behind(buffer: Buffer, service: Service, same: bool) -> None:
    link = Link(int(service.url.rsplit(":", 1)[1]))
    with MemoryClient(link.url, retries=Retries(tries=1)) as memory:
        held = exemplars_of(Piecewise(memory, buffer.name, link.cut), None)
        old = held.push(records(range(1))).exemplar_ids.tolist()
        # As much as fits: what is pushed evicts what is there.
        buffer.configure(eviction="fifo", budget_bytes=5 * buffer.info().bytes_used)
        given = records(range(1, 6))
        with pytest.raises(ServiceError):
            held.push(given)
        assert buffer.info().num_records == 3
        link.mend()
        object.__setattr__(held.buffer, "at_fifth", bool)
        pushed = held.push(given if same else records(range(6, 8)))
        link.close()
    assert pushed.evicted == {*old}
    kept = [info.exemplar_id for info in buffer.query()]
    assert kept == pushed.exemplar_ids.tolist()
    found = held.get(kept)
    assert all(
        np.array_equal(one, picture(n)) for one, n in zip(found, range(1, 6) if same else range(6, 8), strict=True)
    )


def test_a_state_is_a_name_and_what_was_held_then(buffer: Buffer) -> None:
    recorder = Recorder(WebPLossless())
    held = exemplars_of(buffer, None)
    first = held.push([recorder.record(picture(n), class_id=0) for n in range(3)]).exemplar_ids.tolist()
    state = held.state_dict()
    assert state["snapshot"] == f"state-{buffer.info().version}"

    again = exemplars_of(buffer, None)
    again.load_state_dict(state)
    assert again.buffer == buffer  # nothing has changed since

    held.remove(first[:1])
    held.push([recorder.record(picture(9), class_id=0)])
    names = set()
    for _ in range(2):
        # In its own process too, whose decoded pictures of later ids are none of the fork's.
        held.load_state_dict(state)
        names.add(held.buffer.name)
        assert [info.exemplar_id for info in held.buffer.query()] == first
        later = held.push([recorder.record(picture(4), class_id=0)]).exemplar_ids.tolist()
        assert np.array_equal(held.get(later)[0], picture(4))
    assert len(names) == 2
    assert buffer.info().num_records == 3
    for wrong in ({}, {**state, "format": 2}):
        with pytest.raises(ValueError, match=r"no state|of format 2"):
            held.load_state_dict(wrong)
