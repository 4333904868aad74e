"""Reports of runs: keep, list, look at, delete."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Path, Query, Response

from memory_format import ForbiddenError, NotFoundError
from memory_format.api.fields import Name
from memory_format.api.requests import RunQuery
from memory_format.api.runs import RunInfo, RunList, RunReport, StoredRun
from memory_service.http.access import Grant, needs
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import JSON_BODY, GrantDep, Router, StoreDep
from memory_service.store import Store

router = Router(prefix="/v1/runs", tags=["runs"])

RunName = Annotated[Name, Path(description="Of a run.")]


def expect_seen(store: Store, grant: Grant, run_id: str) -> None:
    """Raises ``NotFoundError`` (``unknown_run``): there is no such run that the key is for. Whether there is another
    one is not told."""
    told = store.runs.told_by(run_id)
    if told is None or not grant.sees_run(*told):
        raise NotFoundError(f"there is no run {run_id[:80]!r} that you may look at", code="unknown_run")


@router.put(
    "/{run_id}",
    responses={201: {"model": RunInfo}},
    dependencies=[JSON_BODY],
    openapi_extra=needs("write") | refusals("batch_too_large", "disk_limit_exceeded"),
)
def put_run(run_id: RunName, report: RunReport, store: StoreDep, grant: GrantDep, response: Response) -> RunInfo:
    """Keep the report of a run, in the place of an earlier one: 201 when the run is new, 200 otherwise. The key must be
    for every buffer that it names; what came with another key an admin's replaces."""
    for buffer in sorted(report.buffers):
        grant.check(buffer)
    buffers, _ = store.runs.told_by(run_id) or ((), "")
    if not all(map(grant.sees, buffers)):
        raise ForbiddenError(f"the report of run {run_id} speaks of buffers that the key is not for")
    info, created = store.runs.put(run_id, report, time.time(), made_by=grant.maker, only_maker=grant.only_maker)
    response.status_code = 201 if created else 200
    return info


@router.get("", openapi_extra=needs("read") | refusals("invalid_cursor"))
def list_runs(store: StoreDep, grant: GrantDep, page: Annotated[RunQuery, Query()]) -> RunList:
    """Runs, the newest first, whose buffers the key is for; those that name none are for keys without patterns, and
    their maker's. ``next_cursor`` leads to the next page."""
    return store.runs.page(page.limit, page.cursor, only=grant.sees_run)


@router.get("/{run_id}", openapi_extra=needs("read") | refusals("unknown_run"))
def get_run(run_id: RunName, store: StoreDep, grant: GrantDep) -> StoredRun:
    """One run, with all of its report."""
    expect_seen(store, grant, run_id)
    return store.runs.get(run_id)


@router.delete("/{run_id}", status_code=204, openapi_extra=needs("write") | refusals("unknown_run"))
def delete_run(run_id: RunName, store: StoreDep, grant: GrantDep) -> None:
    """Delete a run's report; its buffers stay. What came with another key an admin's deletes."""
    expect_seen(store, grant, run_id)
    store.runs.delete(run_id, only_maker=grant.only_maker)
