"""Mammoth's buffer over the service gives what its own gives.

With ``EXEMPLAR_MEMORY_MAMMOTH`` naming a checkout of Mammoth whose requirements are installed, all of it runs with
Mammoth's own class, else with one of the same signatures.
"""

from __future__ import annotations

import importlib
import io
import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from client import MemoryClient
from learner.adapters.mammoth import Recorder, SavedExamples, StoredExamples
from memory_format import BudgetError, WebP, WebPLossless
from tests.conftest import Service

sys.path += filter(None, [os.environ.get("EXEMPLAR_MEMORY_MAMMOTH")])
Buffer: Any = importlib.import_module(
    "utils.buffer" if os.environ.get("EXEMPLAR_MEMORY_MAMMOTH") else "tests.adapters.mammoth_buffer"
).Buffer

_numbers = itertools.count()
SIZE = 10


class ServiceBuffer(StoredExamples, Buffer):  # type: ignore[misc]
    """As a user of Mammoth has it."""


@pytest.fixture
def memory(service: Service) -> Iterator[MemoryClient]:
    with MemoryClient(service.url) as client:
        yield client


def stored(memory: MemoryClient, budget_bytes: int = 10**6, **options: Any) -> Any:
    made = memory.create_buffer(f"mammoth-{next(_numbers)}", budget_bytes=budget_bytes)
    return ServiceBuffer(SIZE, memory=made, **{"recorder": Recorder(WebPLossless()), **options})


def batch(number: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(number)
    return {
        "examples": torch.randint(0, 256, (6, 3, 8, 12), generator=random).float() / 255,
        "labels": torch.randint(0, 5, (6,), generator=random),
        "logits": torch.randn(6, 5, generator=random),
        "task_labels": torch.full((6,), number // 4),
    }


def played(buffer: Any, numbers: range) -> list[torch.Tensor]:
    """What a run that draws before it adds, in each step, draws."""
    drawn = []
    for number in numbers:
        if number:
            drawn += buffer.get_data(4, transform=lambda x: x.flip(-1), return_index=True)
        buffer.add_data(**batch(number))
    return drawn


def assert_same(one: Any, other: Any) -> None:
    assert len(one) == len(other) > 0
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_places_and_draws_are_those_of_its_own_buffer(memory: MemoryClient, cache_bytes: int | None) -> None:
    own, ours = Buffer(SIZE), stored(memory, cache_bytes=cache_bytes)
    np.random.seed(0)  # noqa: NPY002
    expected = played(own, range(12))
    np.random.seed(0)  # noqa: NPY002
    assert_same(expected, played(ours, range(12)))
    assert_same(own.get_all_data(), ours.get_all_data())
    assert (len(ours), ours.num_seen_examples) == (SIZE, 72)
    records = {record.exemplar_id: record for record in ours.examples.exemplars.buffer.records()}
    assert len(records) == SIZE
    for place, id_ in enumerate(ours.examples.ids.tolist()):
        assert records[id_].class_id == int(own.labels[place])
        assert records[id_].phase == int(own.task_labels[place])
        assert np.array_equal(records[id_].arrays()["logits"], own.logits[place].numpy())


def test_models_may_index_examples_and_rewrite_what_belongs_to_them(memory: MemoryClient) -> None:
    own, ours = Buffer(SIZE), stored(memory)
    for buffer in (own, ours):
        np.random.seed(0)  # noqa: NPY002
        buffer.add_data(**batch(0))
        buffer.logits[[1, 3]] = 7.0
        buffer.examples[2] = torch.zeros(3, 8, 12)
    for index in (3, -1, slice(1, 9, 2), [4, 4], np.array([5, 0]), torch.tensor([2]), torch.arange(SIZE) < 3):
        assert torch.equal(ours.examples[index], own.examples[index])
    assert ours.examples.shape == own.examples.shape
    assert torch.equal(ours.get_all_data()[2], own.get_all_data()[2])
    ours.empty()
    assert not hasattr(ours, "examples")
    ours.add_data(**batch(1))
    assert ours.report(3, list[str]().append).exemplars == 6


def dark(buffer: Any, tasks: range) -> list[torch.Tensor]:
    """The calls of X-DER: it writes logits of what it has drawn, and makes the buffer anew after each task."""
    drawn = []
    for task in tasks:
        for step in range(3 if task else 0):
            for share in (0.5, -2.0):
                index, *found = buffer.get_data(4, return_index=True)
                drawn += [index, *found]
                chosen = found[1] % 2 == step % 2
                buffer.logits[index[chosen], :] = share * found[2][chosen] + task
                buffer.task_labels[index[chosen]] = task
        if task:
            pictures, labels, logits, tasks_of = buffer.get_all_data()
            buffer.empty()
            for label in labels.unique():
                rows = (labels == label).nonzero()[:1, 0]
                buffer.add_data(
                    examples=pictures[rows], labels=labels[rows], logits=logits[rows], task_labels=tasks_of[rows]
                )
        buffer.add_data(**batch(task))
        index, *found = buffer.get_data(buffer.buffer_size, return_index=True)
        buffer.logits[index[found[1] < 3], :] = 1.5 * found[2][found[1] < 3]
        drawn += [index, *found]
    return drawn


def assert_told(ours: Any) -> None:
    """The service has the logits that the buffer has."""
    held = {record.exemplar_id: record for record in ours.examples.exemplars.buffer.records()}
    assert {*held} == {*ours.examples.ids[: len(ours)].tolist()}
    for place, id_ in enumerate(ours.examples.ids[: len(ours)].tolist()):
        assert held[id_].class_id == int(ours.labels[place])
        assert np.array_equal(held[id_].arrays()["logits"], ours.logits[place].numpy())


def test_logits_that_x_der_makes_anew_are_those_of_the_records(memory: MemoryClient) -> None:
    own, ours = Buffer(SIZE), stored(memory)
    np.random.seed(0)  # noqa: NPY002
    expected = dark(own, range(4))
    np.random.seed(0)  # noqa: NPY002
    assert_same(expected, dark(ours, range(3)) + dark(ours, range(3, 4)))
    assert_same(own.get_all_data(), ours.get_all_data())
    ours.commit()
    assert_told(ours)
    revisions = {record.revision for record in ours.examples.exemplars.buffer.records()}
    assert max(revisions) > 0
    version = ours.examples.exemplars.buffer.info().version
    ours.logits[0] = ours.logits[0].clone()
    ours.get_data(4)
    assert ours.examples.exemplars.buffer.info().version == version


def test_writes_that_torch_does_not_count_are_found_when_it_reports_or_saves(memory: MemoryClient) -> None:
    ours = stored(memory)
    ours.add_data(**batch(0))
    for call in (ours.commit, ours.state_dict, ours.serialize, lambda: ours.report(0)):
        for tensor in (ours.logits.data, ours.logits.numpy()):
            tensor[2] += 1
            call()
            assert_told(ours)
    with torch.inference_mode():
        ours.logits = ours.logits * 2
    ours.get_data(4)
    assert_told(ours)


def test_a_checkpoint_has_the_logits_of_its_time(memory: MemoryClient) -> None:
    ours = stored(memory)
    np.random.seed(0)  # noqa: NPY002
    dark(ours, range(2))
    state, random = ours.state_dict(), np.random.get_state()  # noqa: NPY002
    made = ours.examples.exemplars.buffer
    then = {record.exemplar_id: record.arrays()["logits"] for record in made.records()}
    assert_told(ours)
    expected = dark(ours, range(2, 4))
    snapshot = state["examples"]["state"]["snapshot"]
    now = {record.exemplar_id: record.arrays()["logits"] for record in made.records(snapshot=snapshot)}
    assert now.keys() == then.keys()
    assert all(np.array_equal(now[id_], then[id_]) for id_ in then)

    again = ServiceBuffer(SIZE, memory=made, recorder=Recorder(WebPLossless()))
    again.load_state_dict(state)
    np.random.set_state(random)  # noqa: NPY002
    assert_same(expected, dark(again, range(2, 4)))
    again.commit()
    assert_told(again)


def test_what_is_read_and_added_again_is_stored_as_it_was(memory: MemoryClient) -> None:
    """No loss upon loss, and no mask of what a mask has left."""
    brightest = Recorder(WebP(quality=5), patch_px=4, masked=lambda pixels: pixels.sum(2, dtype=np.int64), keep=0.5)
    ours = stored(memory, recorder=brightest)
    ours.add_data(**batch(0))
    made = ours.examples.exemplars.buffer
    before = {record.payload: record.keep_mask_bytes for record in made.records()}
    pictures, labels, logits, tasks = ours.get_all_data()
    assert not torch.equal(pictures, batch(0)["examples"])
    for _ in range(2):
        ours.empty()
        assert made.info().num_records == 0
        ours.add_data(examples=pictures[:5], labels=labels[:5], logits=2 * logits[:5], task_labels=tasks[:5] + 1)
        assert torch.equal(ours.get_all_data()[0], pictures[:5])
    after = list(made.records())
    assert len(after) == 5
    assert all(before[record.payload] == record.keep_mask_bytes for record in after)
    assert {record.phase for record in after} == {1}
    assert {record.revision for record in after} == {0}
    for place, record in enumerate(after):
        assert np.array_equal(record.arrays()["logits"], 2 * logits[place].numpy())


def test_new_logits_that_find_no_room_make_the_buffer_smaller(memory: MemoryClient) -> None:
    ours = stored(memory)
    np.random.seed(0)  # noqa: NPY002
    played(ours, range(5))
    made = ours.examples.exemplars.buffer
    made.configure(budget_bytes=made.info().bytes_used)
    ours.logits[:] = -ours.logits
    drawn = ours.get_data(SIZE)
    assert len(drawn[0]) == len(ours) == ours.buffer_size == made.info().num_records == SIZE - 1
    assert_told(ours)


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(memory: MemoryClient) -> None:
    ours = stored(memory)
    np.random.seed(0)  # noqa: NPY002
    played(ours, range(5))
    saved = io.BytesIO()
    torch.save(ours.state_dict(), saved)
    random = np.random.get_state()  # noqa: NPY002
    expected = played(ours, range(5, 12))

    saved.seek(0)
    again = ServiceBuffer(SIZE, memory=ours._memory, recorder=Recorder(WebPLossless()))
    again.load_state_dict(torch.load(saved))
    np.random.set_state(random)  # noqa: NPY002
    assert_same(expected, played(again, range(5, 12)))
    assert again.examples.exemplars.buffer.name != ours.examples.exemplars.buffer.name
    assert_same(ours.get_all_data(), again.get_all_data())
    with pytest.raises(ValueError, match="no state of StoredExamples"):
        again.load_state_dict({})


def test_its_own_checkpoints_have_a_name_in_place_of_pictures(memory: MemoryClient) -> None:
    ours = stored(memory)
    np.random.seed(0)  # noqa: NPY002
    played(ours, range(5))
    saved = io.BytesIO()
    torch.save(ours.serialize(), saved)
    assert len(saved.getvalue()) < 5000
    saved.seek(0)
    again = ServiceBuffer(SIZE, memory=ours._memory)
    with torch.serialization.safe_globals([SavedExamples]):
        attributes = torch.load(saved)
    # As Mammoth's ``load_buffer`` does it.
    assert attributes["examples"].shape[0] == again.buffer_size
    for name, value in attributes.items():
        setattr(again, name, value)
    again.num_seen_examples = SIZE
    assert_same(ours.get_all_data(), again.get_all_data())


def test_a_checkpoint_of_mammoths_own_buffer_is_taken_over(memory: MemoryClient) -> None:
    own, ours = Buffer(SIZE), stored(memory)
    np.random.seed(0)  # noqa: NPY002
    played(own, range(5))
    for name in own.used_attributes:  # as Mammoth's ``load_buffer`` does it
        setattr(ours, name, getattr(own, name).clone())
    ours.num_seen_examples = SIZE
    assert_same(own.get_all_data(), ours.get_all_data())
    held = sorted(info.class_id for info in ours.examples.exemplars.buffer.query())
    assert held == sorted(own.labels.tolist())


def test_a_push_that_failed_is_made_up_for(memory: MemoryClient) -> None:
    made = memory.create_buffer(f"mammoth-{next(_numbers)}", budget_bytes=4000, eviction="reject")
    own, ours = Buffer(SIZE), ServiceBuffer(SIZE, memory=made, recorder=Recorder(WebPLossless()))
    np.random.seed(0)  # noqa: NPY002
    played(own, range(2))
    np.random.seed(0)  # noqa: NPY002
    with pytest.raises(BudgetError):
        played(ours, range(2))
    with pytest.raises(BudgetError):
        ours.get_all_data()
    made.configure(budget_bytes=10**6)
    assert_same(own.get_all_data(), ours.get_all_data())
    assert made.info().num_records == SIZE


def test_a_budget_in_bytes_makes_the_buffer_as_small_as_it_has_to_be(memory: MemoryClient) -> None:
    ours = stored(memory, budget_bytes=2500)
    np.random.seed(0)  # noqa: NPY002
    drawn = played(ours, range(12))
    held = ours.examples.exemplars.buffer.info()
    assert 1 < len(ours) == ours.buffer_size == held.num_records < SIZE
    assert held.bytes_used <= 2500
    assert {len(values) for values in ours.get_all_data()} == {len(ours)}
    assert all(torch.isfinite(values.float()).all() for values in drawn)
    labels = {info.exemplar_id: info.class_id for info in ours.examples.exemplars.buffer.query()}
    assert [labels[id_] for id_ in ours.examples.ids.tolist()] == ours.labels.tolist()
    ours.buffer_size = SIZE  # as Mammoth's ``fill_buffer`` does, before it empties and fills
    assert ours.buffer_size == held.num_records
    fresh = stored(memory, budget_bytes=1200)
    fresh.add_data(**batch(1))
    # Who fills it counts how many more there is room for.
    assert fresh.buffer_size == fresh.num_seen_examples == len(fresh.get_all_data()[0]) < 6
    with pytest.raises(BudgetError, match="the whole budget is 100"):
        stored(memory, budget_bytes=100).add_data(**batch(0))
    with pytest.raises(ValueError, match="take another strategy"):
        stored(memory, sample_selection_strategy="unlimited")
