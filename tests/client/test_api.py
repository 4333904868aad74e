"""The client against a real service process."""

from __future__ import annotations

import io
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from client import Buffer, MemoryClient, ProtocolError, Retries, ServiceUnavailableError, Timeout
from memory_format import BudgetError, ConflictError, FormatError, NotFoundError, Record
from memory_format.api.terms import EvictionPolicy, Strategy
from tests.client.samples import make, make_many
from tests.conftest import Service


def test_service_info_and_health(memory: MemoryClient) -> None:
    info = memory.info()
    assert info.service == "exemplar-memory"
    assert info.wire_version == "2"
    assert info.eviction == get_args(EvictionPolicy)
    assert info.strategies == get_args(Strategy)
    assert {"em_webp", "em_webp_lossless", "em_zstd"} <= set(info.codecs)
    assert memory.health() is True


def test_buffers_are_made_listed_and_deleted(memory: MemoryClient) -> None:
    made = memory.create_buffer("made", budget_bytes=5000, eviction="reject", description="für alle")
    again = memory.create_buffer("made", budget_bytes=5000, eviction="reject", description="für alle")
    assert again == made
    info = memory.buffer("made").info()
    assert (info.budget_bytes, info.eviction, info.description) == (5000, "reject", "für alle")
    assert (info.bytes_used, info.num_records) == (0, 0)
    assert "made" in [buffer.name for buffer in memory.buffers()]
    with pytest.raises(ConflictError) as conflict:
        memory.create_buffer("made", budget_bytes=6000)
    assert conflict.value.code == "buffer_exists"
    memory.delete_buffer("made")
    for call in (memory.buffer, memory.delete_buffer):
        with pytest.raises(NotFoundError) as missing:
            call("made")
        assert missing.value.code == "unknown_buffer"


def test_long_lists_are_followed(memory: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client._listing._PAGE", 2)
    names = [f"listed-{number}" for number in range(5)]
    for name in names:
        memory.create_buffer(name, budget_bytes=5000)
    assert [info.name for info in memory.buffers() if info.name in names] == names
    buffer = memory.buffer(names[0])
    taken = [buffer.take_snapshot(f"s{number}") for number in range(5)]
    assert buffer.snapshots() == taken


@pytest.mark.parametrize("name", ["../etc", "..", "a/b", "", "ü", "a b"])
def test_odd_names_are_refused_by_the_service(memory: MemoryClient, name: str) -> None:
    with pytest.raises((FormatError, NotFoundError)):
        memory.create_buffer(name, budget_bytes=1000)


def test_a_budget_of_zero_is_refused(memory: MemoryClient) -> None:
    with pytest.raises(FormatError) as caught:
        memory.create_buffer("nothing", budget_bytes=0)
    assert caught.value.code == "invalid_budget"


def test_what_is_pushed_comes_back(buffer: Buffer) -> None:
    sent = make_many(25)
    result = buffer.push(sent)
    assert result.kept == 25
    assert (result.rejected, result.evicted, result.batches) == (0, (), 1)
    ids = result.exemplar_ids
    assert all(isinstance(exemplar_id, int) for exemplar_id in ids)
    assert len(set(ids)) == 25
    assert result.bytes_used == sum(record.charge for record in sent)
    expected = [replace(record, exemplar_id=exemplar_id or 0) for record, exemplar_id in zip(sent, ids, strict=True)]
    assert list(buffer.records()) == expected

    stats = buffer.stats()
    assert stats.bytes_used == result.bytes_used
    assert stats.bytes_used + stats.bytes_free == stats.budget_bytes
    assert stats.num_records == 25
    assert [(item.class_id, item.count) for item in stats.classes] == [(0, 7), (1, 6), (2, 6), (3, 6)]
    assert stats.phases == {0: 10, 1: 10, 2: 5}
    assert stats.learners == {"learner-0": 13, "learner-1": 12}
    assert stats.version == result.version


def test_one_exemplar(buffer: Buffer) -> None:
    record = make(7)
    (exemplar_id,) = buffer.push([record]).exemplar_ids
    assert exemplar_id is not None
    detail = buffer.get(exemplar_id)
    assert (detail.exemplar_id, detail.class_id, detail.grid) == (exemplar_id, 3, (3, 3))
    assert detail.charge == record.charge
    np.testing.assert_array_equal(detail.keep_mask, record.keep_mask)
    np.testing.assert_array_equal(detail.token_ids, record.token_ids)
    np.testing.assert_array_equal(detail.token_positions, record.token_positions)
    assert detail.user_json == {"number": 7}
    picture = np.asarray(Image.open(io.BytesIO(buffer.image(exemplar_id))).convert("RGB"))
    assert picture.shape == (24, 24, 3)
    cells = picture.reshape(3, 8, 3, 8, 3).swapaxes(1, 2).reshape(9, 8, 8, 3)
    np.testing.assert_array_equal(cells[record.keep_indices], record.patches())
    for call in (buffer.get, buffer.image):
        with pytest.raises(NotFoundError) as caught:
            call(exemplar_id + 1000)
        assert caught.value.code == "unknown_exemplar"


def test_query_filters_sorts_and_follows_cursors(buffer: Buffer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client._listing._PAGE", 7)
    buffer.push(make_many(40))
    everything = list(buffer.query())
    assert [item.rank for item in everything] == list(range(40))
    assert [item.exemplar_id for item in everything] == [record.exemplar_id for record in buffer.records()]

    def ranks(**filters: object) -> list[int]:
        found = [item.rank for item in buffer.query(**filters)]  # type: ignore[arg-type]
        assert [record.rank for record in buffer.records(**filters)] == found  # type: ignore[arg-type]
        return found

    assert ranks(class_id=3) == list(range(3, 40, 4))
    assert ranks(class_id=np.int64(3), phase=[1, 2]) == [11, 15, 19, 23, 27]
    assert ranks(class_id=np.array([0, 1]), phase=0) == [0, 1, 4, 5, 8, 9]
    assert ranks(learner_id="learner-1", limit=3) == [1, 3, 5]
    assert ranks(learner_id=["learner-0", "learner-1"], sort="-rank", limit=9) == list(range(39, 30, -1))
    assert ranks(min_score=0.105, max_score=0.125) == [11, 12]
    assert ranks(sort="-score", limit=20) == list(range(39, 19, -1))
    assert ranks(class_id=77) == []
    assert ranks(limit=0) == []


def test_an_empty_filter_is_not_no_filter(buffer: Buffer) -> None:
    buffer.push(make_many(3))
    for call in (buffer.query, buffer.records, lambda **filters: buffer.sample(1, **filters)):
        with pytest.raises(ValueError, match="empty list"):
            call(class_id=[])


def test_queries_are_lazy(buffer: Buffer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client._listing._PAGE", 5)
    buffer.push(make_many(20))
    calls: list[tuple[Any, ...]] = []
    real = buffer.client.session.transport.request

    def counted(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        return real(*arguments, **more)

    monkeypatch.setattr(buffer.client.session.transport, "request", counted)
    found = buffer.query()
    assert calls == []
    for _ in range(6):
        next(found)
    assert len(calls) == 2


def test_a_wrong_filter_is_refused(buffer: Buffer) -> None:
    with pytest.raises(FormatError) as caught:
        list(buffer.query(sort="colour"))  # type: ignore[arg-type]
    assert caught.value.code in ("invalid_query", "invalid_request")


def test_pushes_are_cut_by_count_and_by_bytes(buffer: Buffer) -> None:
    records = make_many(20)
    by_count = buffer.push(records, max_batch_records=6)
    assert by_count.batches == 4
    assert by_count.kept == 20
    by_bytes = buffer.push(records, max_batch_bytes=2000)
    assert by_bytes.batches > 5
    one_each = buffer.push(records[:3], max_batch_bytes=1)
    assert one_each.batches == 3
    assert [record.rank for record in buffer.records()] == [*range(20), *range(20), 0, 1, 2]
    none: list[dict[str, Any]] = [{"max_batch_bytes": 0}, {"max_batch_records": 0}]
    for limits in none:
        with pytest.raises(ValueError, match=r"must be a whole number in 1\.\."):
            buffer.push(records, **limits)


def test_nothing_may_be_pushed(buffer: Buffer) -> None:
    result = buffer.push([])
    assert (result.exemplar_ids, result.batches, result.bytes_used) == ((), 0, 0)


def test_a_generator_is_consumed_one_batch_at_a_time(memory: MemoryClient) -> None:
    buffer = memory.create_buffer("generated", budget_bytes=10_000_000)
    record = make(1, patches=np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8))
    ahead = []

    def generate() -> Iterator[Record]:
        for number in range(60):
            ahead.append(number - buffer.info().num_records)
            yield replace(record, rank=number, payload=bytes(bytearray(record.payload)))

    buffer.info()
    tracemalloc.start()
    result = buffer.push(generate(), max_batch_bytes=120_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.batches == 30
    assert max(ahead) <= 2, "records were taken before the batch ahead of them was stored"
    assert result.bytes_used > 3_000_000
    assert peak < 1_000_000


def test_a_repeated_push_with_its_key_stores_once(buffer: Buffer) -> None:
    records = make_many(10)
    first = buffer.push(records, max_batch_records=4, idempotency_key="phase-1")
    again = buffer.push(records, max_batch_records=4, idempotency_key="phase-1")
    assert again == first
    assert buffer.info().num_records == 10
    with pytest.raises(ConflictError) as caught:
        buffer.push(make_many(4, first=50), idempotency_key="phase-1")
    assert caught.value.code == "idempotency_key_reused"
    for key in ("", "x" * 101, "naïve", "a\nb"):
        with pytest.raises(ValueError, match="idempotency key"):
            buffer.push(records, idempotency_key=key)


def test_an_interrupted_push_says_how_far_it_came(memory: MemoryClient) -> None:
    records = make_many(6)
    budget = sum(record.charge for record in records[:4])
    buffer = memory.create_buffer("interrupted", budget_bytes=budget, eviction="reject")
    with pytest.raises(BudgetError) as caught:
        buffer.push(records, max_batch_records=2)
    assert caught.value.code == "budget_exceeded"
    assert caught.value.details["records_acknowledged"] == 4
    key = caught.value.details["idempotency_key"]
    assert buffer.info().num_records == 4
    assert buffer.push(records[:4], max_batch_records=2, idempotency_key=key).kept == 4
    assert buffer.info().num_records == 4


def test_eviction_and_rejection_are_reported(memory: MemoryClient) -> None:
    records = make_many(40)
    buffer = memory.create_buffer("tight", budget_bytes=3000)
    evicted: set[int] = set()
    # The best ranks come last, so that they push out what is there.
    for start in (32, 24, 16, 8, 0):
        result = buffer.push(records[start : start + 8])
        assert result.kept + result.rejected == 8
        assert sum(exemplar_id is None for exemplar_id in result.exemplar_ids) == result.rejected
        evicted |= set(result.evicted)
        assert result.bytes_used <= result.budget_bytes == 3000
        assert result.bytes_used == sum(item.charge for item in buffer.query())
    assert evicted
    assert not evicted & {item.exemplar_id for item in buffer.query()}


def test_samples_are_batches_and_repeat(buffer: Buffer) -> None:
    sent = make_many(30)
    ids = buffer.push(sent).exemplar_ids
    by_id = dict(zip(ids, sent, strict=True))
    batch = buffer.sample(16, seed=1, step=2)
    assert len(batch) == 16
    assert batch.patch_px == 8
    for row in range(16):
        source = by_id[int(batch.exemplar_id[row])]
        assert batch.class_id[row] == source.class_id
        assert batch.phase[row] == source.phase
        assert batch.rank[row] == source.rank
        assert batch.score[row] == np.float32(source.score)
        assert tuple(batch.grid[row]) == source.grid
        assert batch.text_length[row] == source.text_length
        np.testing.assert_array_equal(batch.patches[row][batch.patch_valid[row]], source.patches())
        np.testing.assert_array_equal(batch.patch_positions[row][batch.patch_valid[row]], source.keep_indices)
        np.testing.assert_array_equal(batch.token_ids[row][batch.token_valid[row]], source.token_ids)
        np.testing.assert_array_equal(batch.token_positions[row][batch.token_valid[row]], source.token_positions)
    again, other = buffer.sample(16, seed=1, step=2), buffer.sample(16, seed=1, step=3)
    assert batch.records == again.records
    assert batch.records != other.records


def test_samples_follow_their_conditions(buffer: Buffer) -> None:
    buffer.push(make_many(30))
    assert set(buffer.sample(50, class_id=2).class_id) == {2}
    zero: Any = np.array([0])  # arrays are taken too
    assert set(buffer.sample(50, class_id=[1, 2], phase=zero).class_id) == {1, 2}
    assert {record.learner_id for record in buffer.sample(20, learner_id="learner-0").records} == {"learner-0"}
    whole = buffer.sample(30, replace=False)
    assert len(set(whole.exemplar_id.tolist())) == 30
    balanced = buffer.sample(28, strategy="class_balanced", replace=False)
    assert np.bincount(balanced.class_id).tolist() == [7, 7, 7, 7]
    with pytest.raises(FormatError):
        buffer.sample(31, replace=False)
    with pytest.raises(NotFoundError) as caught:
        buffer.sample(1, class_id=99)
    assert caught.value.code == "no_matching_exemplars"
    with pytest.raises(FormatError):
        buffer.sample(0)


def test_texts_are_re_paired_within_a_class(buffer: Buffer) -> None:
    sent = make_many(40)
    buffer.push(sent)
    texts = {record.token_ids_bytes: record for record in sent}
    pixels = {record.payload: record for record in sent}
    batch = buffer.sample(64, repair_text=1.0)
    swapped = 0
    for record in batch.records:
        text, image = texts[record.token_ids_bytes], pixels[record.payload]
        assert text.class_id == image.class_id == record.class_id
        swapped += text is not image
    assert swapped == 64


def test_an_empty_buffer_cannot_be_sampled(buffer: Buffer) -> None:
    with pytest.raises(NotFoundError) as caught:
        buffer.sample(4)
    assert caught.value.code == "no_matching_exemplars"


def test_threads_share_a_client(buffer: Buffer) -> None:
    buffer.push(make_many(20))
    results: dict[int, bytes] = {}

    def draw(seed: int) -> None:
        results[seed] = b"".join(buffer.sample(8, seed=seed, step=step).patches.tobytes() for step in range(5))

    threads = [threading.Thread(target=draw, args=(seed % 4,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results.values())) == 4


def test_a_service_that_restarts_in_the_middle_of_a_push_loop(
    start_service: Callable[..., Service],
) -> None:
    """Killed between and during pushes: what was acknowledged is there, and stored once."""
    first = start_service()
    port = first.url.rsplit(":", 1)[1]
    retries = Retries(tries=200, first_wait=0.05, max_wait=0.1)
    with MemoryClient(first.url, retries=retries) as memory:
        buffer = memory.create_buffer("loop", budget_bytes=10_000_000)
        stop = threading.Event()
        pushed: list[int] = []

        def push() -> None:
            number = 0
            while not stop.is_set():
                (exemplar_id,) = buffer.push([make(number)]).exemplar_ids
                assert exemplar_id is not None
                pushed.append(exemplar_id)
                number += 1

        thread = threading.Thread(target=push)
        thread.start()
        try:
            for _ in range(2):
                seen = len(pushed)
                while len(pushed) < seen + 20:
                    stop.wait(0.01)
                first.kill()
                first = start_service(first.data, "--port", port)
        finally:
            stop.set()
            thread.join()
        found = [record.rank for record in buffer.records()]
        assert found == list(range(len(pushed))), "each record once, in order, none lost"
        assert [item.exemplar_id for item in buffer.query()] == pushed
        info = buffer.info()
        assert info.bytes_used == sum(record.charge for record in buffer.records())
        assert info.num_records == len(pushed)


def test_nobody_listens() -> None:
    waits = Retries(tries=3, first_wait=0.001)
    with (
        MemoryClient("http://127.0.0.1:9", timeout=Timeout(connect=1), retries=waits) as memory,
        pytest.raises(ServiceUnavailableError) as caught,
    ):
        memory.buffers()
    assert caught.value.details["tries"] == 3
    assert isinstance(caught.value, ConnectionError)


def test_something_else_listens(service: Service) -> None:
    with MemoryClient(service.url + "/docs") as memory, pytest.raises((ProtocolError, NotFoundError)):
        memory.buffers()


def test_a_closed_client_says_so(service: Service) -> None:
    memory = MemoryClient(service.url)
    memory.close()
    with pytest.raises(ServiceUnavailableError, match="closed"):
        memory.buffers()
