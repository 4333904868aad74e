"""Snapshots and forks."""

from __future__ import annotations

import numpy as np
import pytest

from client import Buffer, ClassStats, MemoryClient, ServiceUnavailableError
from client.dataset import ReplayDataset
from memory_format import ConflictError, FormatError, NotFoundError
from tests.client.samples import make_many
from tests.client.script import LOST, Script, client_of, problem

pytest.importorskip("torch")


@pytest.fixture
def changed(buffer: Buffer) -> Buffer:
    """Records 0..9 at the snapshot ``then``; without 0..4, with 10..12 and other scores now."""
    ids = buffer.push(make_many(10)).exemplar_ids
    buffer.take_snapshot("then")
    buffer.push(make_many(3, first=10))
    buffer.delete([id_ for id_ in ids[:5] if id_ is not None])
    buffer.update_scores(np.array(ids[5:]), scores=np.full(5, 77.0))
    return buffer


def test_snapshots_are_taken_listed_and_deleted(buffer: Buffer) -> None:
    assert buffer.snapshots() == []
    pushed = buffer.push(make_many(4))
    taken = buffer.take_snapshot("phase-1")
    assert (taken.name, taken.version, taken.num_records) == ("phase-1", pushed.version, 4)
    assert taken.bytes_used == pushed.bytes_used
    assert buffer.take_snapshot("phase-1") == taken == buffer.snapshot("phase-1")
    buffer.push(make_many(1))
    with pytest.raises(ConflictError) as conflict:
        buffer.take_snapshot("phase-1")
    assert conflict.value.code == "snapshot_exists"
    later = buffer.take_snapshot("a-later-one")
    assert buffer.snapshots() == [taken, later]
    assert buffer.stats().snapshots == 2
    buffer.delete_snapshot("phase-1")
    assert buffer.snapshots() == [later]
    for call in (buffer.snapshot, buffer.delete_snapshot, buffer.diff, lambda name: buffer.sample(1, snapshot=name)):
        with pytest.raises(NotFoundError) as missing:
            call("phase-1")
        assert missing.value.code == "unknown_snapshot"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "ü", "a b", "A", "x" * 64])
def test_odd_names_are_refused(buffer: Buffer, name: str) -> None:
    with pytest.raises((FormatError, NotFoundError)):
        buffer.take_snapshot(name)
    with pytest.raises((FormatError, NotFoundError)):
        buffer.delete_snapshot(name)
    assert buffer.info().num_records == 0


def test_the_newest_are_retained(memory: MemoryClient) -> None:
    buffer = memory.create_buffer("retains", budget_bytes=100_000, retain_snapshots=2)
    for number in range(4):
        buffer.push(make_many(1, first=number))
        buffer.take_snapshot(f"s{number}")
    assert [taken.name for taken in buffer.snapshots()] == ["s2", "s3"]


def test_everything_reads_from_a_snapshot(changed: Buffer) -> None:
    then = list(changed.query(snapshot="then"))
    assert [item.rank for item in then] == list(range(10))
    assert [item.rank for item in changed.query()] == list(range(5, 13))
    assert [item.score for item in then] == pytest.approx([number / 100 for number in range(10)])
    assert [record.rank for record in changed.records(snapshot="then", class_id=1)] == [1, 5, 9]
    old, kept = then[0].exemplar_id, then[5].exemplar_id
    assert changed.get(old, snapshot="then").rank == 0
    assert changed.get(kept, snapshot="then").score == pytest.approx(0.05)
    assert changed.get(kept).score == 77.0
    assert changed.image(old, snapshot="then").startswith(b"\x89PNG")
    for call in (changed.get, changed.image):
        with pytest.raises(NotFoundError) as caught:
            call(old)
        assert caught.value.code == "unknown_exemplar"
        with pytest.raises(NotFoundError) as caught:
            call(old, snapshot="never")
        assert caught.value.code == "unknown_snapshot"


def test_samples_of_a_snapshot_stay_the_same(buffer: Buffer) -> None:
    buffer.push(make_many(10))
    now = buffer.sample(16, seed=3, strategy="score_weighted")
    buffer.take_snapshot("then")
    assert buffer.sample(16, seed=3, strategy="score_weighted", snapshot="then").records == now.records
    dataset = ReplayDataset(buffer, 8, seed=1, num_steps=3, strategy="score_weighted", snapshot="then")
    before = [batch["exemplar_id"] for batch in dataset]
    buffer.push(make_many(5, first=10))
    buffer.update_scores([item.exemplar_id for item in buffer.query()], scores=np.arange(15))
    buffer.delete(phase=0)
    again = buffer.sample(
        16, seed=3, strategy="score_weighted", snapshot="then", version=buffer.snapshot("then").version
    )
    assert again.records == now.records
    dataset.set_epoch(0)
    for left, batch in zip(before, dataset, strict=True):
        np.testing.assert_array_equal(left.numpy(), batch["exemplar_id"].numpy())


def test_what_came_and_went(changed: Buffer) -> None:
    ids = {record.rank: record.exemplar_id for record in [*changed.records(snapshot="then"), *changed.records()]}
    charges = {record.rank: record.charge for record in [*changed.records(snapshot="then"), *changed.records()]}
    diff = changed.diff("then")
    assert (diff.from_version, diff.to_version) == (changed.snapshot("then").version, changed.info().version)
    assert diff.added.exemplar_ids == (ids[10], ids[11], ids[12])
    assert diff.evicted.exemplar_ids == tuple(ids[rank] for rank in range(5))
    assert (diff.evicted.count, diff.evicted.bytes) == (5, sum(charges[rank] for rank in range(5)))
    assert diff.evicted.classes[0] == ClassStats(0, 2, charges[0] + charges[4])
    changed.take_snapshot("now")
    back = changed.diff("now", "then")
    assert (back.added, back.evicted) == (diff.evicted, diff.added)


def test_a_fork_goes_its_own_way(changed: Buffer) -> None:
    fork = changed.fork("forked-now", description="a trial")
    assert (fork.name, fork.client) == ("forked-now", changed.client)
    assert list(fork.records()) == list(changed.records())
    assert (fork.info().description, fork.snapshots()) == ("a trial", [])
    fork.delete(class_id=1)
    fork.push(make_many(2, first=50))
    assert len(list(changed.query(class_id=1))) == 2

    old = changed.fork("forked-then", snapshot="then", disk_limit_bytes=9_000_000)
    assert [record.rank for record in old.records()] == list(range(10))
    assert old.info().disk_limit_bytes == 9_000_000
    with pytest.raises(ConflictError) as caught:
        changed.fork("forked-then")
    assert caught.value.code == "buffer_exists"
    with pytest.raises(NotFoundError) as missing:
        changed.fork("forked-never", snapshot="never")
    assert missing.value.code == "unknown_snapshot"


def test_a_lost_answer_to_a_fork_is_not_asked_for_again() -> None:
    script = Script(LOST[1])
    with client_of(script) as memory, pytest.raises(ServiceUnavailableError):
        Buffer(memory, "b").fork("c")
    assert len(script.asked) == 1


def test_a_deletion_that_went_through_before_its_answer_was_lost() -> None:
    with client_of(Script(LOST[1], problem(404, "unknown_snapshot"))) as memory:
        Buffer(memory, "b").delete_snapshot("s")
    with client_of(Script(problem(404, "unknown_snapshot"))) as memory, pytest.raises(NotFoundError):
        Buffer(memory, "b").delete_snapshot("s")
