"""Avalanche's iCaRL over the service: the same exemplars, means of classes and weights as with its own tensors."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from client import MemoryClient
from learner.adapters.avalanche_icarl import Recorder, StoredICaRL, store_icarl
from memory_format import BudgetError, FormatError, WebPLossless
from tests.conftest import Service

# The adapter silences what the library says when it is imported.
from avalanche.benchmarks import nc_benchmark  # isort: skip
from avalanche.logging import BaseLogger  # isort: skip
from avalanche.training.plugins import EvaluationPlugin  # isort: skip
from avalanche.training.supervised import ICaRL  # isort: skip

_numbers = itertools.count()
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def benchmark_of(pictures: torch.Tensor) -> Any:
    """Three experiences of two classes, eight pictures each."""
    data: Any = TensorDataset(pictures, torch.arange(48) % 6)
    data.targets = (torch.arange(48) % 6).tolist()
    return nc_benchmark(data, data, n_experiences=3, task_labels=False, shuffle=False)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (48, 3, 10, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def stream(pixels: torch.Tensor) -> Any:
    normalised = (pixels.float() / 255).sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(STD)[:, None, None])
    return benchmark_of(normalised).train_stream


@pytest.fixture
def memory(service: Service) -> Iterator[MemoryClient]:
    with MemoryClient(service.url) as client:
        yield client


def strategy_of(memory_size: int = 12) -> Any:
    torch.manual_seed(0)
    extractor, classifier = nn.Sequential(nn.Flatten(), nn.Linear(360, 8)), nn.Linear(8, 6)
    return ICaRL(
        feature_extractor=extractor,
        classifier=classifier,
        optimizer=torch.optim.SGD([*extractor.parameters(), *classifier.parameters()], 0.05),
        memory_size=memory_size,
        buffer_transform=None,
        fixed_memory=True,
        train_mb_size=8,
        eval_mb_size=8,
        evaluator=EvaluationPlugin(loggers=[BaseLogger()]),
    )


def stored(memory: MemoryClient, strategy: Any, budget_bytes: int = 10**6, **options: Any) -> StoredICaRL:
    buffer = memory.create_buffer(f"icarl-{next(_numbers)}", budget_bytes=budget_bytes)
    return store_icarl(strategy, buffer, **{"recorder": Recorder(WebPLossless()), "mean": MEAN, "std": STD, **options})


def plugin_of(strategy: Any) -> Any:
    return next(plugin for plugin in strategy.plugins if hasattr(plugin, "x_memory"))


def assert_same(one: Any, other: Any) -> None:
    own, ours = plugin_of(one), plugin_of(other)
    assert ours.y_memory == own.y_memory
    assert all(map(torch.equal, ours.order, own.order))
    for a, b in zip(ours.x_memory, own.x_memory, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    for label, mean in own.class_means.items():
        assert torch.allclose(ours.class_means[label], mean, atol=1e-5)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_exemplars_means_and_weights_are_its_own(memory: MemoryClient, stream: Any) -> None:
    own, ours = strategy_of(), strategy_of()
    told: list[str] = []
    plugin = stored(memory, ours, report=told.append)
    for experience in stream:
        for strategy in (own, ours):
            torch.manual_seed(1)
            strategy.train(experience)
        assert_same(own, ours)
        held = list(plugin.exemplars.buffer.query())
        assert len(held) == sum(map(len, plugin.y_memory))
        expected = {
            (labels[0], int(n) - 1) for labels, order in zip(plugin.y_memory, plugin.order, strict=True) for n in order
        }
        assert {(info.class_id, info.rank) for info in held} == expected
    assert [line.split(":")[1].split(",")[0] for line in told] == [" 12 stored", " 6 stored", " 4 stored"]


def test_a_run_that_goes_on_is_one_that_never_stopped(memory: MemoryClient, stream: Any) -> None:
    ours = strategy_of()
    plugin = stored(memory, ours)
    torch.manual_seed(1)
    ours.train(stream[0])
    file = io.BytesIO()
    torch.save(plugin.state_dict(), file)
    then = deepcopy((ours.model, ours._criterion, ours.clock))
    torch.manual_seed(2)
    ours.train(stream[1])

    again = strategy_of()
    restored = store_icarl(again, plugin.exemplars.buffer, recorder=plugin.recorder, mean=MEAN, std=STD)
    again.model, _, _ = then
    again.optimizer = torch.optim.SGD(
        [*again.model.feature_extractor.parameters(), *again.model.train_classifier.parameters()], 0.05
    )
    again._criterion.__dict__.update(then[1].__dict__)
    again.clock.__dict__.update(then[2].__dict__)
    file.seek(0)
    restored.load_state_dict(torch.load(file))
    torch.manual_seed(2)
    again.train(stream[1])
    assert_same(ours, again)
    with pytest.raises(ValueError, match="no state of StoredICaRL"):
        restored.load_state_dict({})


def test_bytes_cut_the_order_of_each_class(memory: MemoryClient, pixels: torch.Tensor) -> None:
    """Whatever the service keeps is the front of herding's order, and what the plugin has."""
    stream, ours = benchmark_of(pixels.float() / 255).train_stream, strategy_of(memory_size=1000)
    plugin = stored(memory, ours, budget_bytes=9_000, mean=None, std=None)
    for experience in stream:
        ours.train(experience)
        info = plugin.exemplars.buffer.info()
        assert info.bytes_used <= 9_000
        assert info.num_records == sum(map(len, plugin.x_memory)) == sum(map(len, plugin.y_memory))
        assert all(sorted(order.tolist()) == [*range(1, len(order) + 1)] for order in plugin.order)
    assert {len(order) for order in plugin.order} < {*range(1, 8)}


def test_what_cannot_be_is_refused(memory: MemoryClient, stream: Any) -> None:
    ours = strategy_of()
    stored(memory, ours)
    with pytest.raises(ValueError, match="that has no exemplars yet"):
        stored(memory, ours)
    stored(memory, strange := strategy_of(), mean=None, std=None)
    with pytest.raises(FormatError, match="before they are normalised"):
        strange.train(stream[0])
    stored(memory, poor := strategy_of(), budget_bytes=700)
    with pytest.raises(BudgetError, match="has no exemplar that fits in 700 bytes"):
        poor.train(stream[0])
