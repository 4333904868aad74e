"""Phases: who is in which, for learners that go through them in step."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from memory_format.api.fields import LearnerId
from memory_format.api.phases import LearnerPhase, PhaseList
from memory_format.api.requests import PhaseEntry, PhaseQuery
from memory_service.http.access import needs
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import JSON_BODY, BufferDep, GrantDep, Router

router = Router(prefix="/v1/buffers/{name}/phases", tags=["phases"])

LearnerName = Annotated[LearnerId, Path(description="Of a learner.")]


@router.get("", openapi_extra=needs("read") | refusals("unknown_buffer", "invalid_cursor"))
def list_phases(buffer: BufferDep, page: Annotated[PhaseQuery, Query()]) -> PhaseList:
    """Learners that have said in which phase they are, by id; ``next_cursor`` leads to the next page."""
    learners, next_cursor = buffer.phases.page(page.limit, page.cursor)
    return PhaseList(tuple(learners), next_cursor=next_cursor)


@router.put(
    "/{learner_id}",
    responses={201: {"model": LearnerPhase}},
    dependencies=[JSON_BODY],
    openapi_extra=needs("write") | refusals("unknown_buffer", "disk_limit_exceeded"),
)
def enter_phase(
    buffer: BufferDep, learner_id: LearnerName, entry: PhaseEntry, grant: GrantDep, response: Response
) -> LearnerPhase:
    """The learner is in this phase from now on: 201 when the buffer has not heard of it, 200 otherwise."""
    entered, is_new = buffer.phases.enter(learner_id, entry.phase, ended=entry.ended, only_learner=grant.learner_id)
    response.status_code = 201 if is_new else 200
    return entered


@router.delete("/{learner_id}", status_code=204, openapi_extra=needs("write") | refusals("unknown_buffer"))
def leave_phases(buffer: BufferDep, learner_id: LearnerName, grant: GrantDep) -> None:
    """Forget in which phase a learner is; its exemplars stay."""
    buffer.phases.leave(learner_id, only_learner=grant.learner_id)
