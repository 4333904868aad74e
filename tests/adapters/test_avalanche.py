"""Avalanche's storage policies over the service: the same samples in the same order as in its own memory."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from client import MemoryClient
from learner.adapters.avalanche import LearnersOrder, Recorder, StoredExemplars
from memory_format import BudgetError, FormatError, WebPLossless
from tests.conftest import Service

# The adapter silences what the library says when it is imported.
from avalanche.benchmarks import nc_benchmark  # isort: skip
from avalanche.training import Naive  # isort: skip
from avalanche.training.plugins import ReplayPlugin, SupervisedPlugin  # isort: skip
from avalanche.training.storage_policy import (  # isort: skip
    ClassBalancedBuffer,
    ExperienceBalancedBuffer,
    HerdingSelectionStrategy,
    ParametricBuffer,
    ReservoirSamplingBuffer,
)

pytestmark = [
    # Said by Avalanche of itself.
    pytest.mark.filterwarnings("ignore:Call to deprecated function update"),
    pytest.mark.filterwarnings("ignore:No loggers specified"),
]

_numbers = itertools.count()
ITEMS = 12
LOSSLESS = Recorder(WebPLossless())


@pytest.fixture(scope="module")
def stream() -> Any:
    """Three experiences of two classes, ten pictures of 20 x 20 px each."""
    pictures = torch.randint(0, 256, (60, 3, 20, 20), generator=torch.Generator().manual_seed(0)).float() / 255
    data: Any = TensorDataset(pictures, torch.arange(60) % 6)
    data.targets = (torch.arange(60) % 6).tolist()
    return nc_benchmark(data, data, n_experiences=3, task_labels=False, shuffle=False).train_stream


@pytest.fixture
def memory(service: Service) -> Iterator[MemoryClient]:
    with MemoryClient(service.url) as client:
        yield client


def stored(
    memory: MemoryClient, stream: Any, policy: Any, budget_bytes: int = 10**6, **options: Any
) -> StoredExemplars:
    buffer = memory.create_buffer(f"avalanche-{next(_numbers)}", budget_bytes=budget_bytes)
    return StoredExemplars(policy, buffer, like=stream[0].dataset, **{"recorder": LOSSLESS, **options})


class Seen(SupervisedPlugin):  # type: ignore[misc]
    """Remembers each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[torch.Tensor, ...]] = []

    def before_training_iteration(self, strategy: Any, **_: Any) -> None:
        self.batches.append((strategy.mb_x.clone(), strategy.mb_y.clone(), strategy.mb_task_id.clone()))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(1200, 8), nn.ReLU(), nn.Linear(8, 6))


def trained(model: nn.Module, experiences: Any, policy: Any) -> list[tuple[torch.Tensor, ...]]:
    """The batches that were trained on."""
    seen = Seen()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        plugins=[ReplayPlugin(ITEMS, storage_policy=policy), seen],
        evaluator=None,
    )
    for experience in experiences:
        strategy.train(experience)
    return seen.batches


def assert_same(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> None:
    assert len(one) == len(other) > 0
    for batch, again in zip(one, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


POLICIES: dict[str, Callable[[nn.Module], Any]] = {
    "reservoir": lambda _: ReservoirSamplingBuffer(ITEMS),
    "class balanced": lambda _: ClassBalancedBuffer(ITEMS),
    "experience balanced": lambda _: ExperienceBalancedBuffer(ITEMS),
    "herding": lambda model: ParametricBuffer(
        ITEMS, groupby="class", selection_strategy=HerdingSelectionStrategy(model, "1")
    ),
    "the learner's": lambda model: ParametricBuffer(
        ITEMS, groupby="class", selection_strategy=LearnersOrder(model, "1")
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_samples_are_those_of_its_own_buffer_in_the_same_order(
    memory: MemoryClient, stream: Any, name: str
) -> None:
    model = network()
    own = trained(model, stream, POLICIES[name](model))
    model = network()
    policy = stored(memory, stream, POLICIES[name](model), cache_bytes=5000 if name == "reservoir" else None)
    assert_same(own, trained(model, stream, policy))
    held = policy.exemplars.buffer.info()
    assert len(policy.buffer) == held.num_records == ITEMS
    assert max(len(batch[0]) for batch in own) == 16


def test_a_run_that_goes_on_sees_what_it_would_have_seen(memory: MemoryClient, stream: Any) -> None:
    model = network()
    policy = stored(memory, stream, ClassBalancedBuffer(ITEMS))
    trained(model, stream[:2], policy)
    saved = io.BytesIO()
    torch.save({"policy": policy.state_dict(), "model": model.state_dict(), "random": torch.get_rng_state()}, saved)
    assert len(saved.getvalue()) < 60_000  # 40 kB of it are the model, pictures would be 58 kB
    expected = trained(model, stream[2:], policy)

    saved.seek(0)
    state = torch.load(saved)
    again = StoredExemplars(
        ClassBalancedBuffer(ITEMS), policy.exemplars.buffer, like=stream[0].dataset, recorder=LOSSLESS
    )
    model = network()
    model.load_state_dict(state["model"])
    again.load_state_dict(state["policy"])
    torch.set_rng_state(state["random"])
    assert_same(expected, trained(model, stream[2:], again))
    assert again.exemplars.buffer.name != policy.exemplars.buffer.name  # a fork: the first run has gone on
    assert list(again.buffer.targets) == list(policy.buffer.targets)


def test_a_budget_in_bytes_cuts_each_order_from_behind(memory: MemoryClient, stream: Any) -> None:
    said: list[str] = []
    random.seed(0)
    policy = stored(memory, stream, ParametricBuffer(ITEMS, groupby="class"), budget_bytes=9000, report=said.append)
    for experience in stream:
        policy.post_adapt(None, experience)
        held = list(policy.exemplars.buffer.query())
        assert 0 < len(held) < ITEMS
        assert sorted(info.class_id for info in held) == sorted(policy.buffer.targets)
        for class_id in {info.class_id for info in held}:
            ranks = sorted(info.rank for info in held if info.class_id == class_id)
            assert ranks == list(range(len(ranks)))
        pictures = [picture for picture, *_ in policy.buffer]
        assert len(pictures) == len(held)
    assert said[0].startswith("phase 0: 5 stored, 0 evicted; 5 exemplars of 2 classes, ")
    policy.resize(None, 3)
    assert len(policy.buffer) == policy.exemplars.buffer.info().num_records <= 3


def test_of_an_experience_whose_push_failed_nothing_is_left(memory: MemoryClient, stream: Any) -> None:
    buffer = memory.create_buffer(f"avalanche-{next(_numbers)}", budget_bytes=11_000, eviction="reject")
    policy = StoredExemplars(ClassBalancedBuffer(40), buffer, like=stream[0].dataset, recorder=LOSSLESS)
    with pytest.raises(BudgetError):
        policy.post_adapt(None, stream[0])
    assert len(policy.buffer) == buffer.info().num_records == 0
    buffer.configure(budget_bytes=10**6)
    policy.post_adapt(None, stream[1])
    assert sorted(policy.buffer.targets) == sorted(stream[1].dataset.targets)
    pictures = {bytes(picture.numpy()) for picture, *_ in stream[1].dataset}
    assert {bytes(picture.numpy()) for picture, *_ in policy.buffer} == pictures


def test_masked_exemplars_have_the_size_of_whole_ones(memory: MemoryClient, stream: Any) -> None:
    masked = Recorder(WebPLossless(), patch_px=5, masked=lambda _: np.eye(4, dtype=bool))
    policy = stored(memory, stream, ReservoirSamplingBuffer(4), recorder=masked)
    policy.post_adapt(None, stream[0])
    whole = {int(info.num_patches) for info in policy.exemplars.buffer.query()}
    assert whole == {4}
    assert {tuple(picture.shape) for picture, *_ in policy.buffer} == {(3, 20, 20)}


def test_what_cannot_be_is_said_in_words(memory: MemoryClient, stream: Any) -> None:
    policy = ReservoirSamplingBuffer(4)
    policy.post_adapt(None, stream[0])
    with pytest.raises(ValueError, match="give one that is empty"):
        stored(memory, stream, policy)
    buffer = memory.create_buffer(f"avalanche-{next(_numbers)}", budget_bytes=1000)
    vectors: Any = TensorDataset(torch.zeros(4, 7), torch.zeros(4).long())
    vectors.targets = [0, 1, 0, 1]
    of_vectors = nc_benchmark(vectors, vectors, n_experiences=1, task_labels=False).train_stream[0].dataset
    with pytest.raises(FormatError, match="a picture of one or three channels"):
        StoredExemplars(ReservoirSamplingBuffer(4), buffer, like=of_vectors)
    one = stored(memory, stream, ReservoirSamplingBuffer(4))
    state = stored(memory, stream, ClassBalancedBuffer(4)).state_dict()
    with pytest.raises(ValueError, match="of a ClassBalancedBuffer, this is a ReservoirSamplingBuffer"):
        one.load_state_dict(state)
    with pytest.raises(ValueError, match="no state of StoredExemplars"):
        one.load_state_dict({})
