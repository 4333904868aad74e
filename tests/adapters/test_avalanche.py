"""Avalanche's storage policies over the service: the same samples in the same order as in its own memory."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
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
from avalanche.benchmarks.utils import DataAttribute  # isort: skip
from avalanche.training import DER, Naive  # isort: skip
from avalanche.training.plugins import ReplayPlugin, SupervisedPlugin  # isort: skip
from avalanche.training.storage_policy import (  # isort: skip
    ClassBalancedBuffer,
    ExperienceBalancedBuffer,
    HerdingSelectionStrategy,
    ParametricBuffer,
    ReservoirSamplingBuffer,
)
from avalanche.training.supervised.der import ClassBalancedBufferWithLogits  # isort: skip

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


class SeenByDER(SupervisedPlugin):  # type: ignore[misc]
    """Remembers each batch with what is replayed, and the logits that its outputs are to be."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[torch.Tensor, ...]] = []

    def after_forward(self, strategy: Any, **_: Any) -> None:
        logits = () if strategy.replay_loader is None else (strategy.batch_logits,)
        self.batches.append(tuple(part.clone() for part in (*strategy.mbatch, *logits)))


def der(policy: Any = None) -> Any:
    """DER++ that keeps its exemplars so, or as it does."""
    model = network()
    strategy = DER(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        mem_size=ITEMS,
        beta=0.5,
        train_mb_size=8,
        plugins=[SeenByDER()],
        evaluator=None,
    )
    if policy is not None:
        strategy.storage_policy = policy
    return strategy


def logits_held(policy: StoredExemplars) -> dict[int, torch.Tensor]:
    """By id, as the service has them."""
    ids = [info.exemplar_id for info in policy.exemplars.buffer.query()]
    records = policy.exemplars.buffer.fetch(ids).records
    assert {record.arrays()["logits"].dtype for record in records} == {np.dtype(np.float32)}
    return {id_: torch.tensor(record.arrays()["logits"]) for id_, record in zip(ids, records, strict=True)}


def test_der_sees_its_own_samples_and_logits(memory: MemoryClient, stream: Any) -> None:
    """Also where classes come back: what stays of before then keeps the logits that it had."""
    own, policy = der(), stored(memory, stream, ClassBalancedBufferWithLogits(ITEMS))
    ours = der(policy)
    for strategy in (own, ours):
        torch.manual_seed(1)
        for experience in (stream[0], stream[1], stream[0], stream[2]):
            strategy.train(experience)
    assert [len(batch) for batch in own.plugins[0].batches] == [3] * 3 + [4] * 9
    assert_same(own.plugins[0].batches, ours.plugins[0].batches)
    assert all(map(torch.equal, own.model.parameters(), ours.model.parameters()))
    held = logits_held(policy)
    assert len(held) == len(own.storage_policy.buffer) == ITEMS
    for (_, _, _, logits), id_, (_, _, _, other) in zip(
        own.storage_policy.buffer, policy.buffer.exemplar_id, policy.buffer, strict=True
    ):
        assert torch.equal(logits, held[id_])
        assert torch.equal(logits, other)


def test_der_that_goes_on_sees_what_it_would_have_seen(memory: MemoryClient, stream: Any) -> None:
    policy = stored(memory, stream, ClassBalancedBufferWithLogits(ITEMS))
    first = der(policy)
    for experience in stream[:2]:
        first.train(experience)
    saved = io.BytesIO()
    torch.save(policy.state_dict(), saved)
    model, generator, seen = deepcopy(first.model.state_dict()), torch.get_rng_state(), len(first.plugins[0].batches)
    first.train(stream[2])

    again = stored(memory, stream, ClassBalancedBufferWithLogits(ITEMS))
    saved.seek(0)
    state = torch.load(saved)
    assert not any(isinstance(value, torch.Tensor) for _, _, _, values in state["rows"] for value in values.values())
    again.load_state_dict(state)
    second = der(again)
    second.model.load_state_dict(model)
    torch.set_rng_state(generator)
    second.train(stream[2])
    assert_same(first.plugins[0].batches[seen:], second.plugins[0].batches)
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))
    assert all(map(torch.equal, logits_held(again).values(), logits_held(policy).values()))


class Anew(ClassBalancedBufferWithLogits):  # type: ignore[misc]
    """As X-DER does it: what is kept gets other logits."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(ITEMS)
        self._change = change

    def update(self, strategy: Any, **options: Any) -> None:
        super().update(strategy, **options)
        for group in self.buffer_groups.values():
            anew = DataAttribute([self._change(row) for row in group.buffer.logits], "logits", use_in_getitem=True)
            group.buffer = group.buffer.update_data_attribute("logits", anew)


def test_logits_made_anew_take_the_place_of_a_records(memory: MemoryClient, stream: Any) -> None:
    policy = stored(memory, stream, Anew(lambda logits: logits + 1))
    strategy = der(policy)
    strategy.train(stream[0])
    before = logits_held(policy)
    strategy.train(stream[1])
    after, infos = logits_held(policy), list(policy.exemplars.buffer.query())
    stayed = before.keys() & after.keys()
    assert len(stayed) == ITEMS // 2
    assert all(torch.equal(after[id_], before[id_] + 1) for id_ in stayed)
    assert {info.exemplar_id for info in infos if info.revision} == stayed
    shown = zip(policy.buffer.exemplar_id, policy.buffer.logits, strict=True)
    assert all(torch.equal(after[id_], row) for id_, row in shown)
    other = der(stored(memory, stream, Anew(lambda logits: logits.long())))
    with pytest.raises(FormatError, match=r"attribute 'logits' has vectors of torch\.int64"):
        other.train(stream[0])
