"""Buffers: make, list, look at, delete."""

from __future__ import annotations

from fastapi import APIRouter, Response

from memory_service.routes.common import BufferDep, StoreDep
from memory_service.schemas import BufferInfo, BufferList, BufferRequest
from memory_service.store.stats import BufferStats, stats

router = APIRouter(prefix="/v1/buffers", tags=["buffers"])


@router.put("/{name}", responses={201: {"model": BufferInfo}})
def put_buffer(name: str, wanted: BufferRequest, store: StoreDep, response: Response) -> BufferInfo:
    """Make a buffer: 201 when it is new, 200 when an equal one exists."""
    buffer, created = store.create_buffer(
        name, budget_bytes=wanted.budget_bytes, eviction=wanted.eviction, description=wanted.description
    )
    response.status_code = 201 if created else 200
    return BufferInfo.of(buffer)


@router.get("")
def list_buffers(store: StoreDep) -> BufferList:
    """All buffers, by name."""
    return BufferList(buffers=[BufferInfo.of(buffer) for buffer in store.buffers()])


@router.get("/{name}")
def get_buffer_info(buffer: BufferDep) -> BufferInfo:
    """One buffer."""
    return BufferInfo.of(buffer)


@router.delete("/{name}", status_code=204)
def delete_buffer(name: str, store: StoreDep) -> None:
    """Delete a buffer, its records and their files."""
    store.delete_buffer(name)


@router.get("/{name}/stats")
def get_stats(buffer: BufferDep) -> BufferStats:
    """Figures: budget, bytes, records by class, phase and learner, files."""
    return stats(buffer)
