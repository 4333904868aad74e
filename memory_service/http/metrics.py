"""Figures for Prometheus: named and labelled by its rules.

No label is of a class, a learner or an exemplar: there is no bound on how many of these there are. All that is read of
a buffer is its state, so nothing waits for a push.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memory_service.store import Buffer, Store

_BUFFER: Final = ("buffer",)


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


def _of_buffers(buffers: list[Buffer]) -> Iterator[Metric]:
    by_kind = GaugeMetricFamily(
        "exemplar_buffer_bytes",
        "Bytes of records: live count against the budget; pinned ones only snapshots show; dead ones go when room is "
        "needed; held files wait for readers.",
        labels=[*_BUFFER, "kind"],
    )
    gauges = {
        "exemplar_buffer_budget_bytes": "Most bytes of live records.",
        "exemplar_buffer_disk_bytes": "On the disk, the index included.",
        "exemplar_buffer_disk_limit_bytes": "Most bytes on the disk.",
        "exemplar_buffer_records": "Live records.",
        "exemplar_buffer_snapshots": "Snapshots.",
        "exemplar_buffer_segments": "Segment files.",
        "exemplar_buffer_version": "Changes so far: grows with each.",
    }
    counters = {
        "exemplar_pushes": "Pushes that were decided.",
        "exemplar_evicted_records": "Records that made room.",
        "exemplar_samples": "Batches drawn.",
        "exemplar_sampled_records": "Records in batches drawn.",
    }
    gauge = {name: GaugeMetricFamily(name, words, labels=_BUFFER) for name, words in gauges.items()}
    counter = {name: CounterMetricFamily(name, words, labels=_BUFFER) for name, words in counters.items()}
    pushed = CounterMetricFamily("exemplar_pushed_records", "Records pushed, by outcome.", labels=[*_BUFFER, "outcome"])
    for buffer in buffers:
        state, held = buffer.state, buffer.contents.readers.held_bytes()
        config, columns, tally = state.config, state.columns, buffer.tally.read()
        name = [config.name]
        kinds = {
            "live": columns.bytes_used,
            "pinned": state.pinned_bytes,
            "dead": sum(segment.dead_bytes for segment in state.segments.values()),
            "held": held,
        }
        for kind, value in kinds.items():
            by_kind.add_metric([*name, kind], value)
        for outcome in ("kept", "rejected"):
            pushed.add_metric([*name, outcome], tally[outcome])
        values = (
            config.budget_bytes,
            state.disk_bytes + held,
            config.disk_limit_bytes,
            columns.num_records,
            len(state.snapshots),
            len(state.segments),
            state.version,
        )
        for family, value in zip(gauge.values(), values, strict=True):
            family.add_metric(name, value)
        counts = (tally["pushes"], tally["evicted"], tally["samples"], tally["drawn"])
        for counted, value in zip(counter.values(), counts, strict=True):
            counted.add_metric(name, value)
    yield from (by_kind, *gauge.values(), pushed, *counter.values())


def new_registry() -> CollectorRegistry:
    """A registry with the process's own figures."""
    # When each series began would be a series more for each.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry
