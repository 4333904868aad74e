"""Draws that are laid out before they are asked for: the same batches, and nothing is held for them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from memory_format import ConflictError, NotFoundError, decode_batch, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.chosen import Expected
from memory_service.store.lent import LentBatch
from memory_service.store.pure import sampler
from memory_service.store.pure.model import Options
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.pure.selection import Filter
from tests.memory_service.helpers import make_exemplar, push, put_buffer, wait_until
from tests.memory_service.test_leases import full_buffer

REQUESTS = [
    SampleRequest(8),
    SampleRequest(8, strategy="class_balanced", replace=False, stream="other"),
    SampleRequest(8, repair_text=0.7),
    SampleRequest(8, where=Filter(class_id=(1, 2)), part=1, parts=2),
    SampleRequest(8, snapshot="s"),
]


@pytest.fixture
def store(data: Path) -> Iterator[Store]:
    with Store(data, Options(segment_bytes=3000)) as store:
        yield store


@pytest.fixture
def buffer(store: Store) -> Buffer:
    """Of two segments and more, one of which is half empty."""
    buffer, _ = store.create_buffer("b", budget_bytes=10**6)
    buffer.push(encode_batch([make_exemplar(rank % 4, rank) for rank in range(30)]))
    buffer.take_snapshot("s")
    buffer.push(encode_batch([make_exemplar(rank % 4, rank) for rank in range(30, 40)]))
    buffer.delete(list(range(5, 12)))
    for request in REQUESTS:
        # Opens the files, and selects.
        buffer.sample(request)
    return buffer


def drawn(buffer: Buffer, request: SampleRequest, expected: Expected | None) -> tuple[bytes, int]:
    with buffer.draw(request, wait=expected is None, expected=expected) as found:
        while found.next_piece():
            pass
        return bytes(found.stream), found.version


def lent(buffer: Buffer, request: SampleRequest, expected: Expected | None) -> Any:
    found: LentBatch = buffer.lend(request, wait=expected is None, expected=expected)
    found.lease.close()
    rows = found.rows
    return rows.rows.tobytes(), rows.swapped.tolist(), rows.learner_ids, rows.num_segments, rows.version


def ids(buffer: Buffer, request: SampleRequest, expected: Expected | None) -> Any:
    return buffer.draw_ids(request, wait=expected is None, expected=expected)


Draw = Callable[[Buffer, SampleRequest, Expected | None], Any]
DRAWS = (drawn, lent, ids)


def train(buffer: Buffer, expected: Expected, request: SampleRequest, steps: int, draw: Draw = drawn) -> list[Any]:
    found = []
    for step in range(request.step, request.step + steps):
        found.append(draw(buffer, replace(request, step=step), expected))
        buffer.lay_ahead(replace(request, step=step), expected)
    return found


@contextmanager
def nothing_is_drawn() -> Iterator[None]:
    with mock.patch.object(sampler, "draw", side_effect=AssertionError("drawn")):
        yield


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: f"{request.strategy} {request.repair_text}")
def test_what_is_laid_out_is_what_would_be_drawn(request_: SampleRequest, buffer: Buffer) -> None:
    for draw in DRAWS:
        if draw is drawn and request_.repair_text:
            # It needs the texts of others, and is never drawn at once.
            continue
        expected = Expected()
        found = train(buffer, expected, request_, 3, draw)
        with nothing_is_drawn():
            found.append(draw(buffer, replace(request_, step=3), expected))
        assert found == [draw(buffer, replace(request_, step=step), None) for step in range(4)]


def test_what_is_laid_out_for_one_kind_of_answer_serves_another(buffer: Buffer) -> None:
    expected = Expected()
    train(buffer, expected, SampleRequest(8), 3, ids)
    with nothing_is_drawn():
        found = drawn(buffer, SampleRequest(8, step=3), expected)
    assert found == drawn(buffer, SampleRequest(8, step=3), None)


def compact(buffer: Buffer) -> None:
    with buffer._changing():
        assert buffer._commits.compactor.compact_one(buffer.config.disk_limit_bytes)


CHANGES: dict[str, Callable[[Buffer], object]] = {
    "push": lambda buffer: buffer.push(encode_batch([make_exemplar(0, 99)])),
    "delete": lambda buffer: buffer.delete([1, 2, 3]),
    "scores": lambda buffer: buffer.update([4], scores=[7.0], ranks=[7]),
    "compaction": compact,
    "settings": lambda buffer: buffer.take_snapshot("another"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_meanwhile_is_drawn_anew(change: str, buffer: Buffer) -> None:
    expected, next_step = Expected(), SampleRequest(8, step=3)
    for draw in DRAWS:
        train(buffer, expected, replace(SampleRequest(8), stream=draw.__name__), 3, draw)
    CHANGES[change](buffer)
    # Opens what files there are now.
    buffer.sample(SampleRequest(40))
    for draw in DRAWS:
        request = replace(next_step, stream=draw.__name__)
        assert draw(buffer, request, expected) == draw(buffer, request, None)


def test_of_another_version_nothing_is_given(buffer: Buffer) -> None:
    expected, pinned = Expected(), SampleRequest(8, version=buffer.state.version)
    train(buffer, expected, pinned, 3)
    buffer.delete([1])
    with pytest.raises(ConflictError):
        drawn(buffer, replace(pinned, step=3), expected)
    # Nor does laying it out fail.
    buffer.lay_ahead(replace(pinned, step=3), expected)


def test_of_a_deleted_buffer_nothing_is_given(store: Store, buffer: Buffer) -> None:
    expected = Expected()
    train(buffer, expected, SampleRequest(8), 3)
    store.delete_buffer("b")
    with pytest.raises(NotFoundError):
        drawn(buffer, SampleRequest(8, step=3), expected)
    buffer.lay_ahead(SampleRequest(8, step=3), expected)
    # One of its name that is made later has other records.
    again, _ = store.create_buffer("b", budget_bytes=10**6)
    again.push(encode_batch([make_exemplar(0, 77)]))
    found = decode_batch(drawn(again, SampleRequest(8, step=3), None)[0])
    assert {record.rank for record in found} == {77}
    assert drawn(again, SampleRequest(8, step=3), expected)[0] == drawn(again, SampleRequest(8, step=3), None)[0]


def test_nothing_is_laid_out_for_who_asks_for_no_steps_in_turn(buffer: Buffer) -> None:
    expected = Expected()
    for step in (5, 3, 9, 1, 7):
        drawn(buffer, SampleRequest(8, step=step), expected)
        with nothing_is_drawn():
            buffer.lay_ahead(SampleRequest(8, step=step), expected)


def test_no_file_and_no_records_are_held_for_it(data: Path) -> None:
    with full_buffer(data, limit=4) as (_, buffer):
        expected, wanted = Expected(), SampleRequest(60)
        buffer.sample(wanted)
        train(buffer, expected, wanted, 3)
        columns = weakref.ref(buffer.state.columns)
        buffer.push(encode_batch([make_exemplar(0, rank, seed=1, pad=50_000) for rank in range(60, 120)]))
        assert buffer.stats().held_bytes == 0
        gc.collect()
        assert columns() is None


def test_only_so_many_are_kept(buffer: Buffer) -> None:
    expected = Expected()
    for seed in range(200):
        train(buffer, expected, SampleRequest(8, seed=seed), 2)
    assert len(expected._next) == 64


@pytest.mark.parametrize("want", ["records", "ids"])
def test_the_service_lays_the_next_step_out_once_one_is_answered(
    want: str, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_buffer(client)
    push(client, [make_exemplar(rank % 4, rank) for rank in range(30)])
    steps: list[int] = []
    draw = sampler.draw

    def noted(selection: Any, request: SampleRequest, **named: Any) -> Any:
        steps.append(request.step)
        return draw(selection, request, **named)

    monkeypatch.setattr(sampler, "draw", noted)
    for step in range(1, 4):
        answer = client.post("/v1/buffers/b/sample", json={"batch_size": 8, "step": step, "want": want})
        assert answer.status_code == 200
    wait_until(lambda: 4 in steps)
