"""Two stages of the storage benchmark: pushing, and drawing batches warm and cold."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from benchmarks.common.page_cache import CAN_FORGET, cached_share, copy_tree, disk_bytes, recall
from benchmarks.common.records import Batch, Maker, batches
from benchmarks.common.rounds import Figure, interleave
from benchmarks.storage.contestants.ours import BareServer, InProcess, OverHttp, Trusted
from benchmarks.storage.contestants.peer import Peer, Read
from benchmarks.storage.plan import Plan

Tick = Callable[[str], object]
# Decoding is the same work warm and cold; one way to read a contestant is enough there.
_NOT_COLD = ("decoded", ", records", "ahead", ", 1 thread", "Storage, bytes")


@dataclass
class SampleStage:
    """What a stage of drawing found."""

    label: str
    records: int
    record_bytes: int
    answer_bytes: int = 0
    """Mean length of an HTTP answer."""
    warm: dict[str, Figure] = field(default_factory=dict)
    cold: dict[str, Figure] = field(default_factory=dict)
    cached_when_warm: dict[str, float] = field(default_factory=dict)
    """The part of each contestant's files in the page cache when a turn begins: near 1, or warm is not warm."""
    cached_after_forgetting: dict[str, float] = field(default_factory=dict)
    """The part of each contestant's files that stayed in the page cache: near 0, or cold is not cold."""
    content_bytes: dict[str, int] = field(default_factory=dict)
    """Bytes a record that each contestant was given to hold."""
    disk_over_live: dict[str, float] = field(default_factory=dict)
    live_bytes: int = 0
    resident: dict[str, int] = field(default_factory=dict)
    """Resident bytes of server processes that hold this store."""


class Field:
    """Contestants side by side in one directory, which goes with them."""

    def __init__(self, directory: Path, kinds: Sequence[type[Peer]], *, capacity: int, max_body: int) -> None:
        self.directory = directory
        self._limits = {"capacity": capacity, "max_body": max_body}
        self.peers: dict[type[Peer], Peer] = {}
        # Ends all of them, even where the end of one fails or is interrupted.
        self._ends = contextlib.ExitStack()
        directory.mkdir()
        self._ends.callback(shutil.rmtree, directory, ignore_errors=True)
        try:
            for kind in kinds:
                self.add(kind)
        except BaseException:
            self._ends.close()
            raise

    def add(self, kind: type[Peer]) -> Peer:
        peer = kind(self.directory / kind.__name__.lower(), **self._limits)
        self._ends.callback(peer.close)
        self.peers[kind] = peer
        return peer

    def bare_server(self, num_bytes: int) -> BareServer:
        """Start the limit over HTTP."""
        server = BareServer(self.directory / "bare.log", num_bytes)
        self._ends.callback(server.close)
        return server

    @property
    def in_process(self) -> InProcess:
        peer = self.peers[InProcess]
        assert isinstance(peer, InProcess)
        return peer

    @property
    def over_http(self) -> OverHttp:
        peer = self.peers[OverHttp]
        assert isinstance(peer, OverHttp)
        return peer

    def serve_copy(self) -> None:
        """Start the service on a copy of the store that was filled in this process."""
        self.in_process.close()
        copy_tree(self.in_process.directory, self.directory / OverHttp.__name__.lower() / "store")
        self.in_process.reopen()
        self.add(OverHttp)

    def __enter__(self) -> Field:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()


def push_stage(plan: Plan, maker: Maker, kinds: Sequence[type[Peer]], tick: Tick) -> dict[int, dict[str, Figure]]:
    """Durable pushes of every size in ``plan.push_sizes``; contestants keep what they were pushed before."""
    most_repeats = 20
    capacity = sum(size * (2 + plan.rounds * (1 + most_repeats)) for size in plan.push_sizes if size < 1000)
    capacity += sum(size * (2 + 2 * plan.rounds) for size in plan.push_sizes if size >= 1000)
    found = {}
    with Field(
        plan.directory / "push", [*kinds, InProcess, Trusted, OverHttp], capacity=capacity, max_body=maker.max_body
    ) as field_:
        pushed = dict.fromkeys(field_.peers, 0)

        def task(kind: type[Peer], size: int) -> Callable[[], float]:
            def push() -> float:
                batch = maker.batch(pushed[kind], size)
                pushed[kind] += size
                return field_.peers[kind].time_push(batch)

            return push

        for size in plan.push_sizes:
            found[size] = interleave(
                {kind.name: task(kind, size) for kind in field_.peers},
                rounds=plan.rounds,
                round_seconds=0.0 if size >= 1000 else plan.turn_seconds / 4,
                most_repeats=most_repeats,
                tick=lambda name, size=size: tick(f"push {size}: {name}"),  # type: ignore[misc]
                # What others have left unwritten is not this one's to wait for.
                before_turn=lambda _: os.sync(),
            )
    return found


def sample_stage(
    plan: Plan,
    maker: Maker,
    count: int,
    kinds: Sequence[type[Peer]],
    tick: Tick,
    *,
    verify: bool = False,
    before_serving: Callable[[Field], object] = lambda field: None,
    at_end: Callable[[Field], object] = lambda field: None,
) -> SampleStage:
    """Fill every contestant with the same ``count`` records, then draw from all of them in turn.

    Args:
        verify: check that each gives back exactly the bytes that were stored.
        before_serving: called when everything is filled, before the store is copied for the service.
        at_end: called before the contestants are taken down.
    """
    stage = SampleStage(f"{count:,} x {maker.label}", count, maker.mean_body)
    with Field(plan.directory / "sample", [*kinds, InProcess], capacity=count, max_body=maker.max_body) as contestants:
        # Small records are pushed in larger batches, or the making of them takes longer than all the rest.
        size = plan.fill_records if maker.mean_body >= 1000 else plan.fill_records * 10
        for batch in batches(maker, count, size):
            stage.live_bytes += sum(len(body) for body in batch.bodies)
            for peer in list(contestants.peers.values()):
                tick(f"{stage.label}: filling {peer.name}")
                peer.fill(batch)
                if peer.name not in stage.content_bytes:
                    stage.content_bytes[peer.name] = sum(map(len, peer.contents(batch))) // len(batch)
        before_serving(contestants)
        tick(f"{stage.label}: starting the service")
        contestants.serve_copy()
        if verify:
            verify_contents(contestants.peers.values(), maker.batch(0, count), plan.batch)
        _draw(stage, contestants, plan, tick)
        at_end(contestants)
    return stage


def _draw(stage: SampleStage, contestants: Field, plan: Plan, tick: Tick) -> None:
    served = contestants.over_http
    answers = [len(served.sample(plan.batch)) for _ in range(8)]
    stage.answer_bytes = sum(answers) // len(answers)
    bare = contestants.bare_server(stage.answer_bytes)
    reads = {name: (peer, read) for peer in contestants.peers.values() for name, read in peer.reads().items()}
    warm = {name: _drawing(read, plan.batch) for name, (_, read) in reads.items()}
    warm[BareServer.name] = _drawing(bare.read, plan.batch)
    stage.warm = interleave(
        warm,
        rounds=plan.rounds,
        round_seconds=plan.turn_seconds,
        tick=lambda name: tick(f"{stage.label}, warm: {name}"),
        before_turn=lambda name: _warm(reads[name][0]) if name in reads else None,
    )
    for peer in contestants.peers.values():
        if peer.on_disk:
            _warm(peer)
            stage.cached_when_warm[peer.name] = cached_share(peer.directory)
    stage.resident = {OverHttp.name: served.service.resident_bytes()}
    for peer in contestants.peers.values():
        if hasattr(peer, "server_bytes"):
            stage.resident[peer.name] = peer.server_bytes()
        if peer.on_disk and not isinstance(peer, OverHttp):
            stage.disk_over_live[peer.name] = disk_bytes(peer.directory)[1] / stage.live_bytes
    if not CAN_FORGET:
        return
    cold = {name: pair for name, pair in reads.items() if pair[0].on_disk and not any(w in name for w in _NOT_COLD)}
    for name, (peer, _) in cold.items():
        tick(f"{stage.label}, cold: {name}")
        peer.forget()
        stage.cached_after_forgetting[name] = cached_share(peer.directory)
    stage.cold = interleave(
        {name: _cold_drawing(peer, read, plan.batch) for name, (peer, read) in cold.items()},
        rounds=plan.cold_rounds,
        warm_up=False,
        tick=lambda name: tick(f"{stage.label}, cold: {name}"),
    )


def verify_contents(peers: Iterable[Peer], stored: Batch, count: int) -> None:
    """Draw from every contestant and compare with what was stored.

    Raises:
        AssertionError: one gave something else.
    """
    for peer in peers:
        known = set(peer.contents(stored))
        drawn = peer.drawn_contents(count)
        if len(drawn) != count or not known.issuperset(drawn):
            raise AssertionError(f"{peer.name} did not give back what was stored")


def _warm(peer: Peer) -> None:
    if peer.on_disk:
        recall(peer.directory)


def _drawing(read: Read, count: int) -> Callable[[], float]:
    return lambda: read(count)


def _cold_drawing(peer: Peer, read: Read, count: int) -> Callable[[], float]:
    def draw() -> float:
        peer.forget()
        return read(count)

    return draw
