"""torchrl's replay buffer over the service samples what it samples from its own storage."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import (
    LazyTensorStorage,
    PrioritizedSampler,
    RandomSampler,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)

from client import MemoryClient
from learner.adapters.torchrl import StoredReplayBuffer, StoredStorage
from memory_format import BudgetError, FormatError
from tests.conftest import Service

_numbers = itertools.count()
SLOTS = 12
PICTURES: list[Any] = ["pixels", ("next", "pixels")]


@pytest.fixture
def memory(service: Service) -> Iterator[MemoryClient]:
    with MemoryClient(service.url) as client:
        yield client


def storage_of(memory: MemoryClient, budget_bytes: int = 10**6, **options: Any) -> StoredStorage:
    name = f"torchrl-{next(_numbers)}"
    made = memory.create_buffer(name, budget_bytes=budget_bytes, eviction="reject")
    return StoredStorage(SLOTS, made, **{"pictures": PICTURES, "label": "action", **options})


def transitions(number: int, count: int = 5) -> Any:
    random = torch.Generator().manual_seed(number)

    def frames() -> torch.Tensor:
        return torch.randint(0, 256, (count, 4, 10, 12), dtype=torch.uint8, generator=random)

    return TensorDict(
        {
            "pixels": frames(),
            "action": torch.randint(0, 2**40, (count,), generator=random) % 7,
            "next": {
                "pixels": frames(),
                "reward": torch.randn(count, 1, generator=random),
                "value": torch.randn(count, 2, generator=random, dtype=torch.float64),
                "done": torch.rand(count, 1, generator=random) < 0.5,
            },
        },
        batch_size=[count],
    )


SAMPLERS: dict[str, Any] = {
    "random": RandomSampler,
    "without replacement": SamplerWithoutReplacement,
    "prioritized": lambda: PrioritizedSampler(SLOTS, 0.7, 0.5),
}


def seed() -> None:
    """``PrioritizedSampler`` draws by numpy, the others by torch."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002


def played(replay: Any, numbers: range) -> list[Any]:
    """Samples of a run that writes, draws, and gives priorities."""
    drawn = []
    for number in numbers:
        replay.extend(transitions(number))
        drawn.append(replay.sample(8))
        drawn[-1]["td_error"] = drawn[-1]["next", "reward"][:, 0].abs()
        replay.update_tensordict_priority(drawn[-1])
    return drawn


def assert_same(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other) > 0
    for sample, again in zip(one, other, strict=True):
        for key in sample.keys(include_nested=True, leaves_only=True):
            if key != "index_generation":
                assert sample[key].dtype == again[key].dtype
                assert torch.equal(sample[key], again[key]), key


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_those_of_its_own_storage(memory: MemoryClient, name: str) -> None:
    seed()
    own = TensorDictReplayBuffer(storage=LazyTensorStorage(SLOTS), sampler=SAMPLERS[name](), batch_size=8)
    expected = played(own, range(6))
    seed()
    storage = storage_of(memory)
    ours = StoredReplayBuffer(storage=storage, sampler=SAMPLERS[name](), batch_size=8)
    assert_same(expected, played(ours, range(6)))
    held = {info.exemplar_id: info.class_id for info in storage.exemplars.buffer.query()}
    assert len(ours) == len(held) == SLOTS
    assert [held[id_] for id_ in storage.ids.tolist()] == own[:]["action"].tolist()
    for index in (3, slice(2, 5), torch.tensor([1, 1, 0])):
        assert_same([own[index].exclude("index")], [ours[index]])
    assert storage.contains(torch.tensor([0, SLOTS, -1])).tolist() == [True, False, True]


def test_a_priority_for_a_slot_that_was_written_since_is_passed_over(memory: MemoryClient) -> None:
    ours = StoredReplayBuffer(storage=storage_of(memory), sampler=SAMPLERS["prioritized"](), batch_size=8)
    ours.extend(transitions(0, SLOTS))
    sample: Any = torch.cat([ours.sample() for _ in range(8)])
    assert torch.equal(sample["index_generation"], ours._storage.ids[sample["index"]])
    ours.extend(transitions(1, 4))  # slots 0 to 3
    before = ours._sampler._sum_tree[torch.arange(SLOTS)].clone()
    sample["td_error"] = torch.full((64,), 9.0)
    ours.update_tensordict_priority(sample)
    after = ours._sampler._sum_tree[torch.arange(SLOTS)]
    drawn = sample["index"].unique()
    assert torch.equal(after[:4], before[:4])
    assert (after[drawn[drawn >= 4]] != before[drawn[drawn >= 4]]).all()
    with pytest.raises(ValueError, match="a sample of this buffer is needed"):
        ours.update_tensordict_priority(transitions(0))


@pytest.mark.parametrize("by", ["state", "dumps"])
def test_a_run_that_goes_on_samples_what_it_would_have_sampled(memory: MemoryClient, by: str, tmp_path: Path) -> None:
    ours = StoredReplayBuffer(storage=storage_of(memory), sampler=SAMPLERS["prioritized"](), batch_size=8)
    seed()
    played(ours, range(4))
    saved = io.BytesIO()
    if by == "state":
        torch.save(ours.state_dict(), saved)
        assert len(saved.getvalue()) < 8000
    else:
        ours.dumps(tmp_path)
    random = (torch.get_rng_state(), np.random.get_state())  # noqa: NPY002
    expected = played(ours, range(4, 7))

    storage = StoredStorage(SLOTS, ours._storage.exemplars.buffer, pictures=PICTURES, label="action")
    again = StoredReplayBuffer(storage=storage, sampler=SAMPLERS["prioritized"](), batch_size=8)
    if by == "state":
        saved.seek(0)
        again.load_state_dict(torch.load(saved, weights_only=False))
    else:
        again.loads(tmp_path)
    torch.set_rng_state(random[0])
    np.random.set_state(random[1])  # noqa: NPY002
    assert_same(expected, played(again, range(4, 7)))
    assert storage.exemplars.buffer.name != ours._storage.exemplars.buffer.name
    with pytest.raises(ValueError, match="no state of a StoredStorage of 12 slots"):
        storage.load_state_dict({})


def test_a_full_budget_is_refused_and_what_was_there_stays(memory: MemoryClient) -> None:
    storage = storage_of(memory, budget_bytes=7_000)
    ours = StoredReplayBuffer(storage=storage, batch_size=2)
    ours.extend(transitions(0, 3))
    with pytest.raises(BudgetError):
        storage.set(torch.arange(9), transitions(1, 9))
    assert_same([transitions(0, 3)], [ours[:]])
    storage.set(torch.arange(3), transitions(2, 3))
    assert_same([transitions(2, 3)], [ours[:]])
    ours.empty()
    assert (len(ours), storage.exemplars.buffer.info().num_records) == (0, 0)


def test_what_cannot_be_stored_is_said_in_words(memory: MemoryClient) -> None:
    evicts = memory.create_buffer(f"torchrl-{next(_numbers)}", budget_bytes=10**6)
    with pytest.raises(ValueError, match="make it with eviction='reject'"):
        StoredStorage(SLOTS, evicts)
    storage = storage_of(memory)
    with pytest.raises(RuntimeError, match="empty"):
        storage.get(0)
    row = transitions(0)
    for wrong, words in (
        (row.exclude("pixels"), "'pixels' is no uint8 picture"),
        (row.clone().set("state", torch.zeros(5, dtype=torch.complex64)), "which a record cannot have"),
        (row.clone().set("a/b", torch.zeros(5)), "may have no '/'"),
    ):
        with pytest.raises(FormatError, match=words):
            storage.set(torch.arange(5), wrong)
    storage.set(torch.arange(5), row)
    with pytest.raises(FormatError, match="the storage has"):
        storage.set(torch.arange(5), row.exclude("action"))
