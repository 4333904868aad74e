"""Snapshots: take, list, compare, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from memory_service.routes.common import BufferDep, Router
from memory_service.schemas import PageQuery, SnapshotInfo, SnapshotList
from memory_service.store.snapshots import Diff

router = Router(prefix="/v1/buffers/{name}", tags=["snapshots"])


@router.put("/snapshots/{snapshot}", responses={201: {"model": SnapshotInfo}})
def take_snapshot(buffer: BufferDep, snapshot: str, response: Response) -> SnapshotInfo:
    """Name what the buffer holds now: 201 when it is new, 200 when it was taken at this version before."""
    taken, created = buffer.take_snapshot(snapshot)
    response.status_code = 201 if created else 200
    return SnapshotInfo.of(taken)


@router.get("/snapshots")
def list_snapshots(buffer: BufferDep, page: Annotated[PageQuery, Query()]) -> SnapshotList:
    """Snapshots, oldest first; ``next_cursor`` leads to the next page."""
    snapshots, next_cursor = buffer.page_of_snapshots(page.limit, page.cursor)
    return SnapshotList(snapshots=[SnapshotInfo.of(snapshot) for snapshot in snapshots], next_cursor=next_cursor)


@router.get("/snapshots/{snapshot}")
def get_snapshot(buffer: BufferDep, snapshot: str) -> SnapshotInfo:
    """One snapshot."""
    return SnapshotInfo.of(buffer.snapshot(snapshot))


@router.delete("/snapshots/{snapshot}", status_code=204)
def delete_snapshot(buffer: BufferDep, snapshot: str) -> None:
    """Delete a snapshot, and from the disk what only it held."""
    buffer.drop_snapshot(snapshot)


@router.get("/diff")
def diff(
    buffer: BufferDep,
    before: Annotated[str, Query(alias="from", description="A snapshot.")],
    after: Annotated[str | None, Query(alias="to", description="A snapshot; default what is held now.")] = None,
) -> Diff:
    """What was added and what was evicted between two snapshots, or a snapshot and now."""
    return buffer.diff(before, after)
