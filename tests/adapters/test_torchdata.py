"""torchdata's nodes over a replay data set: a graph that goes on is the same one."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from torchdata.nodes import Loader, MultiNodeWeightedSampler, ParallelMapper, Prefetcher

from client import Buffer, MemoryClient
from client.dataset import ReplayDataset
from learner.adapters.torchdata import ReplayNode
from tests.client.samples import make_many
from tests.conftest import Service

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def buffer(service: Service) -> Iterator[Buffer]:
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("nodes", budget_bytes=1_000_000)
        buffer.push(make_many(40))
        yield buffer


def plain(batch: dict[str, Any]) -> tuple[int, list[int]]:
    return int(batch["step"]), batch["exemplar_id"].tolist()


class Graphs:
    """Graphs of nodes over a buffer, which end together."""

    def __init__(self, buffer: Buffer, kind: str) -> None:
        self.buffer, self.kind = buffer, kind
        self.sources: list[ReplayNode] = []

    def source(self, stream: str = "") -> ReplayNode:
        self.sources.append(ReplayNode(ReplayDataset(self.buffer, 4, seed=3, num_steps=6, stream=stream)))
        return self.sources[-1]

    def loader(self) -> Loader[Any]:
        if self.kind == "fetched ahead":
            return Loader(Prefetcher(ParallelMapper(self.source(), plain, num_workers=0), prefetch_factor=3))
        if self.kind == "2 threads":
            return Loader(ParallelMapper(self.source(), plain, num_workers=2, method="thread"))
        both = {name: ParallelMapper(self.source(name), plain, num_workers=0) for name in ("one", "two")}
        return Loader(MultiNodeWeightedSampler(both, {"one": 0.7, "two": 0.3}, seed=5))


@pytest.mark.parametrize("kind", ["fetched ahead", "2 threads", "weighted"])
def test_a_graph_that_goes_on_is_the_same_graph(buffer: Buffer, kind: str) -> None:
    def batches(loader: Loader[Any], count: int) -> list[Any]:
        epochs = itertools.chain.from_iterable(itertools.repeat(loader))
        return list(itertools.islice(epochs, count))

    graphs = Graphs(buffer, kind)
    whole = graphs.loader()
    expected = batches(whole, 9)
    if kind != "weighted":
        drawn = [(step, buffer.sample(4, seed=3, step=step).exemplar_id.tolist()) for step in range(9)]
        assert expected == drawn
    first = graphs.loader()
    found = batches(first, 4)
    state = first.state_dict()
    assert len(pickle.dumps(state)) < 15_000  # a weighted sampler's generators have 5,000 each
    second = graphs.loader()
    second.load_state_dict(state)
    assert found + batches(second, 5) == expected
    for source in graphs.sources:
        source.shutdown()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("replay-prefetch")]
