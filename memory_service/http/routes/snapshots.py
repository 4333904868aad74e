"""Snapshots: take, list, compare, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from memory_format.api.answers import Diff, SnapshotInfo, SnapshotList
from memory_format.api.fields import Name
from memory_format.api.requests import SnapshotQuery
from memory_service.http.access import needs
from memory_service.http.convert import snapshot_info
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import BufferDep, GrantDep, Router

router = Router(prefix="/v1/buffers/{name}", tags=["snapshots"])

SnapshotName = Annotated[Name, Path(description="Of a snapshot.")]
_NAMED = refusals("unknown_buffer", "unknown_snapshot")


@router.put(
    "/snapshots/{snapshot}",
    responses={201: {"model": SnapshotInfo}},
    openapi_extra=needs("write") | refusals("unknown_buffer", "snapshot_exists", "disk_limit_exceeded"),
)
def take_snapshot(buffer: BufferDep, snapshot: SnapshotName, response: Response) -> SnapshotInfo:
    """Name what the buffer holds now: 201 when it is new, 200 when it was taken at this version before."""
    taken, created = buffer.take_snapshot(snapshot)
    response.status_code = 201 if created else 200
    return snapshot_info(taken)


@router.get("/snapshots", openapi_extra=needs("read") | refusals("unknown_buffer", "invalid_cursor"))
def list_snapshots(buffer: BufferDep, page: Annotated[SnapshotQuery, Query()]) -> SnapshotList:
    """Snapshots, oldest first; ``next_cursor`` leads to the next page."""
    snapshots, next_cursor = buffer.page_of_snapshots(page.limit, page.cursor)
    return SnapshotList(tuple(map(snapshot_info, snapshots)), next_cursor=next_cursor)


@router.get("/snapshots/{snapshot}", openapi_extra=needs("read") | _NAMED)
def get_snapshot(buffer: BufferDep, snapshot: SnapshotName) -> SnapshotInfo:
    """One snapshot."""
    return snapshot_info(buffer.snapshot(snapshot))


@router.delete("/snapshots/{snapshot}", status_code=204, openapi_extra=needs("write", own=True) | _NAMED)
def delete_snapshot(buffer: BufferDep, snapshot: SnapshotName, grant: GrantDep) -> None:
    """Delete a snapshot, and from the disk what only it held."""
    buffer.drop_snapshot(snapshot, grant.only_maker)


@router.get("/diff", openapi_extra=needs("read") | _NAMED)
def diff(
    buffer: BufferDep,
    before: Annotated[Name, Query(alias="from", description="A snapshot.")],
    after: Annotated[Name | None, Query(alias="to", description="A snapshot; default what is held now.")] = None,
) -> Diff:
    """What was added and what was evicted between two snapshots, or a snapshot and now."""
    return buffer.diff(before, after)
