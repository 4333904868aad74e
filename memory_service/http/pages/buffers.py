"""The overview of all buffers, one buffer, and what differs between two moments of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Final

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from memory_format import ForbiddenError
from memory_format.api.answers import BufferInfo, ClassStats, SnapshotInfo
from memory_format.api.fields import Name
from memory_format.api.phases import LearnerPhase
from memory_format.api.runs import RunInfo
from memory_service.http.access import GRANT, Grant
from memory_service.http.convert import buffer_info, snapshot_info
from memory_service.http.pages.charts import Breakdown, Room, breakdown, room_of
from memory_service.http.pages.routing import Pages
from memory_service.http.routes.common import BufferDep, GrantDep, StoreDep
from memory_service.http.routes.health import service_version
from memory_service.store.buffer import Buffer
from memory_service.store.changes import expect_made

router = Pages()

BUFFERS_SHOWN: Final = 50
RUNS_SHOWN: Final = 5
SNAPSHOTS_SHOWN: Final = 50
IN_PHASE_SHOWN: Final = 50
CLASSES_SHOWN: Final = 50
"""On each side of a difference."""
IDS_SHOWN: Final = 60


def addresses() -> dict[str, str]:
    """Where a program goes on."""
    return {
        "service": "exemplar-memory",
        "version": service_version(),
        "api": "/v1",
        "buffers": "/v1/buffers",
        "docs": "/docs",
        "openapi": "/openapi.json",
        "health": "/healthz",
        "ready": "/readyz",
    }


class OverviewQuery(BaseModel):
    """A page of buffers."""

    model_config = ConfigDict(extra="forbid")

    cursor: Name | None = None


@dataclass(frozen=True)
class BufferLine:
    """A buffer in the list."""

    info: BufferInfo
    room: Room
    num_classes_seen: int
    num_snapshots: int


@dataclass(frozen=True)
class Overview:
    """All buffers, by name, and the newest runs."""

    version: str
    buffers: tuple[BufferLine, ...]
    runs: tuple[RunInfo, ...]
    """The newest."""
    next_cursor: str | None


@router.page("/", "overview", for_programs=addresses)
def overview(request: Request, store: StoreDep, query: Annotated[OverviewQuery, Query()]) -> Overview:
    # Not by a dependency: those are made before it is known that a page is asked for.
    grant: Grant = request.scope[GRANT]
    buffers, next_cursor = store.page_of_buffers(BUFFERS_SHOWN, query.cursor, only=grant.sees)
    lines = tuple(
        BufferLine(buffer_info(buffer), room_of(buffer), len(buffer.state.classes), len(buffer.state.snapshots))
        for buffer in buffers
    )
    runs = store.runs.page(RUNS_SHOWN, only=grant.sees_run).runs
    return Overview(service_version(), lines, runs, next_cursor)


class SummaryQuery(BaseModel):
    """A page of the learners that have said in which phase they are."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = None


@dataclass(frozen=True)
class BufferSummary:
    """A buffer: what it holds, by class, phase and learner, who is in which phase, and its newest snapshots."""

    info: BufferInfo
    room: Room
    num_classes_seen: int
    classes: Breakdown
    phases: Breakdown
    learners: Breakdown
    in_phase: tuple[LearnerPhase, ...]
    """By id."""
    next_cursor: str | None
    """Leads to further ones of these."""
    num_snapshots: int
    snapshots: tuple[SnapshotInfo, ...]
    """Newest first."""
    may_change: bool
    """Whether who asks may delete it, and its snapshots."""


@router.page("/buffers/{name}/summary", "summary")
def summary(
    request: Request, buffer: BufferDep, grant: GrantDep, query: Annotated[SummaryQuery, Query()]
) -> BufferSummary:
    state, learner_ids = buffer.state, buffer.contents.learners.ids
    newest = islice(reversed(buffer.snapshots()), SNAPSHOTS_SHOWN)
    in_phase, next_cursor = buffer.phases.page(IN_PHASE_SHOWN, query.cursor)
    return BufferSummary(
        info=buffer_info(buffer),
        room=room_of(buffer),
        num_classes_seen=len(state.classes),
        classes=breakdown(state.columns, "class_id", names=state.names),
        phases=breakdown(state.columns, "phase"),
        learners=breakdown(state.columns, "learner", learner_ids.__getitem__),
        in_phase=tuple(in_phase),
        next_cursor=next_cursor,
        num_snapshots=len(state.snapshots),
        snapshots=tuple(map(snapshot_info, newest)),
        may_change=grant.may("write") and _is_own(buffer, grant),
    )


def _is_own(buffer: Buffer, grant: Grant) -> bool:
    try:
        expect_made(buffer.state, buffer.contents.learners, grant.only_maker)
    except ForbiddenError:
        return False
    return True


class DiffQuery(BaseModel):
    """Two moments of a buffer."""

    model_config = ConfigDict(extra="forbid")

    before: Name = Field(alias="from", description="A snapshot.")
    after: str = Field("", alias="to", description="A snapshot; default what is held now.")


@dataclass(frozen=True)
class DiffSide:
    """Records of one moment alone."""

    count: int
    bytes: int
    num_classes: int
    classes: tuple[ClassStats, ...]
    """Those with the most bytes first."""
    exemplar_ids: tuple[int, ...]
    """The first of them."""
    snapshot: str | None
    """In which they can be seen; None: they are held now."""


@dataclass(frozen=True)
class BufferDiff:
    """What came and went between a snapshot and another, or now."""

    name: str
    before: str
    after: str | None
    from_version: int
    to_version: int
    added: DiffSide
    evicted: DiffSide
    revised: DiffSide
    """Those that both hold, with other arrays."""


@router.page("/buffers/{name}/diff", "diff")
def diff(request: Request, buffer: BufferDep, query: Annotated[DiffQuery, Query()]) -> BufferDiff:
    after = query.after or None
    found = buffer.diff(query.before, after)
    sides = []
    for side, snapshot in ((found.added, after), (found.evicted, query.before), (found.revised, after)):
        most = sorted(side.classes, key=lambda stats: -stats.bytes)[:CLASSES_SHOWN]
        sides.append(
            DiffSide(side.count, side.bytes, len(side.classes), tuple(most), side.exemplar_ids[:IDS_SHOWN], snapshot)
        )
    return BufferDiff(buffer.name, query.before, after, found.from_version, found.to_version, *sides)
