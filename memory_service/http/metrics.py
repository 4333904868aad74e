"""Figures for Prometheus: named and labelled by its rules.

No label is of a class, a learner or an exemplar: there is no bound on how many of these there are. All that is read of
a buffer is its state, so nothing waits for a push.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memory_service.store import Buffer, Store


class Live(Protocol):
    """What is counted where requests are answered."""

    @property
    def store(self) -> Store | None: ...

    @property
    def in_progress(self) -> int: ...


class StoreCollector(Collector):
    """Figures of a store and its buffers, made when they are asked for."""

    def __init__(self, live: Live, version: str) -> None:
        self._live = live
        self._version = version

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are known without a store to read."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("exemplar_build_info", "Which version answers.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        yield GaugeMetricFamily(
            "exemplar_requests_in_progress", "Requests under way, this one included.", value=self._live.in_progress
        )
        store = self._live.store
        if store is None:
            return
        yield GaugeMetricFamily(
            "exemplar_store_free_bytes", "Free on the disk of the store.", value=shutil.disk_usage(store.data).free
        )
        yield from _of_buffers(store.buffers())


class _Seen:
    """A buffer at one moment."""

    def __init__(self, buffer: Buffer) -> None:
        self.state = buffer.state
        self.held_bytes = buffer.contents.readers.held_bytes()
        self.tally = buffer.tally.read()


_Read = Callable[[_Seen], float]

_GAUGES: Final[tuple[tuple[str, str, _Read], ...]] = (
    ("exemplar_buffer_budget_bytes", "Most bytes of live records.", lambda seen: seen.state.config.budget_bytes),
    (
        "exemplar_buffer_disk_bytes",
        "On the disk, the index included.",
        lambda seen: seen.state.disk_bytes + seen.held_bytes,
    ),
    ("exemplar_buffer_disk_limit_bytes", "Most bytes on the disk.", lambda seen: seen.state.config.disk_limit_bytes),
    ("exemplar_buffer_records", "Live records.", lambda seen: seen.state.columns.num_records),
    ("exemplar_buffer_snapshots", "Snapshots.", lambda seen: len(seen.state.snapshots)),
    ("exemplar_buffer_segments", "Segment files.", lambda seen: len(seen.state.segments)),
    ("exemplar_buffer_version", "Changes so far: grows with each.", lambda seen: seen.state.version),
)
_KINDS: Final[dict[str, _Read]] = {
    "live": lambda seen: seen.state.columns.bytes_used,
    "pinned": lambda seen: seen.state.pinned_bytes,
    "dead": lambda seen: seen.state.dead_bytes,
    "held": lambda seen: seen.held_bytes,
}
_COUNTERS: Final = (
    ("exemplar_pushes", "Pushes that were decided.", "pushes"),
    ("exemplar_evicted_records", "Records that made room.", "evicted"),
    ("exemplar_samples", "Batches drawn.", "samples"),
    ("exemplar_sampled_records", "Records in batches drawn.", "drawn"),
)
_OUTCOMES: Final = ("kept", "rejected")


def _of_buffers(buffers: Sequence[Buffer]) -> Iterator[Metric]:
    all_seen = [_Seen(buffer) for buffer in buffers]
    by_kind = GaugeMetricFamily(
        "exemplar_buffer_bytes",
        "Bytes of records: live count against the budget; pinned ones only snapshots show; dead ones go when room is "
        "needed; held files wait for readers.",
        labels=["buffer", "kind"],
    )
    pushed = CounterMetricFamily("exemplar_pushed_records", "Records pushed, by outcome.", labels=["buffer", "outcome"])
    for seen in all_seen:
        for kind, read in _KINDS.items():
            by_kind.add_metric([seen.state.config.name, kind], read(seen))
        for outcome in _OUTCOMES:
            pushed.add_metric([seen.state.config.name, outcome], seen.tally[outcome])
    yield from (by_kind, pushed)
    for name, words, read in _GAUGES:
        gauge = GaugeMetricFamily(name, words, labels=["buffer"])
        for seen in all_seen:
            gauge.add_metric([seen.state.config.name], read(seen))
        yield gauge
    for name, words, count in _COUNTERS:
        counter = CounterMetricFamily(name, words, labels=["buffer"])
        for seen in all_seen:
            counter.add_metric([seen.state.config.name], seen.tally[count])
        yield counter


def new_registry() -> CollectorRegistry:
    """A registry with the process's own figures."""
    # When each series began would be a series more for each.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry
