"""What pages change, by the functions of the API's own routes."""

from __future__ import annotations

from fastapi import Response

from memory_format import FormatError
from memory_format.api.requests import DeleteBufferQuery, ForkRequest
from memory_service.http.pages.forms import FormDep
from memory_service.http.pages.routing import Pages
from memory_service.http.routes import buffers, exemplars, snapshots
from memory_service.http.routes.common import BufferDep, BufferName, GrantDep, StoreDep
from memory_service.http.routes.exemplars import ExemplarId

router = Pages()


@router.action("/buffers/{name}/snapshots", "write")
def take_snapshot(buffer: BufferDep, form: FormDep) -> str:
    snapshots.take_snapshot(buffer, form.get("snapshot", ""), Response())
    return f"/buffers/{buffer.name}/summary#snapshots"


@router.action("/buffers/{name}/snapshots/{snapshot}/delete", "write")
def delete_snapshot(buffer: BufferDep, snapshot: snapshots.SnapshotName, grant: GrantDep, form: FormDep) -> str:
    snapshots.delete_snapshot(buffer, snapshot, grant)
    return f"/buffers/{buffer.name}/summary#snapshots"


@router.action("/buffers/{name}/forks", "write")
def fork(name: BufferName, store: StoreDep, grant: GrantDep, form: FormDep) -> str:
    wanted = ForkRequest(name=form.get("name", ""), snapshot=form.get("snapshot") or None)
    return f"/buffers/{buffers.fork(name, wanted, store, grant).name}/summary"


@router.action("/buffers/{name}/delete", "write")
def delete_buffer(name: BufferName, store: StoreDep, grant: GrantDep, form: FormDep) -> str:
    if form.get("name") != name:
        raise FormatError(f"to delete {name}, type its name as it is", code="invalid_request")
    buffers.delete_buffer(name, store, grant, DeleteBufferQuery())
    return "/"


@router.action("/buffers/{name}/exemplars/{exemplar_id}/delete", "write")
def delete_exemplar(buffer: BufferDep, store: StoreDep, grant: GrantDep, exemplar_id: ExemplarId, form: FormDep) -> str:
    exemplars.delete_one(buffer, store, grant, exemplar_id, erase="erase" in form)
    return f"/buffers/{buffer.name}/gallery"
