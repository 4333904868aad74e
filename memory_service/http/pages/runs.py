"""The runs whose reports are here, and one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from memory_format import NotFoundError
from memory_format.api.runs import RunInfo, RunMethod, RunPhase, StoredRun
from memory_format.api.terms import RUN_CURSOR_PATTERN
from memory_service.http.pages.forms import FormDep
from memory_service.http.pages.routing import Pages
from memory_service.http.routes import runs as api
from memory_service.http.routes.common import GrantDep, StoreDep
from memory_service.store import Buffer, Store

router = Pages()

RUNS_SHOWN: Final = 50
COLOURS: Final = 6
"""Methods that have one of their own in a drawing; further ones share the last."""


class RunsQuery(BaseModel):
    """A page of runs."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(None, pattern=f"^{RUN_CURSOR_PATTERN.pattern}$")


@dataclass(frozen=True)
class Dot:
    """A method of a run where its memory and its accuracy put it, each 0..1 of the drawing's side."""

    x: float
    y: float
    colour: int


@dataclass(frozen=True)
class RunsPage:
    """Runs, newest first."""

    runs: tuple[RunInfo, ...]
    labels: tuple[str, ...]
    """Of the methods that have colours, in the order of those."""
    most_bytes: float
    """That any memory uses: the width of the drawing."""
    dots: tuple[Dot, ...]
    damaged: tuple[str, ...]
    """Ids of runs whose report cannot be read."""
    next_cursor: str | None


@router.page("/runs", "runs")
def runs(request: Request, store: StoreDep, grant: GrantDep, query: Annotated[RunsQuery, Query()]) -> RunsPage:
    found = store.runs.page(RUNS_SHOWN, query.cursor, only=grant.sees_run)
    labels = tuple(dict.fromkeys(method.label for run in found.runs for method in run.methods))
    most = max((method.bytes_used for run in found.runs for method in run.methods), default=0.0)
    dots = tuple(
        Dot(method.bytes_used / (most or 1), method.last, _colour(labels.index(method.label)))
        for run in found.runs
        for method in run.methods
    )
    return RunsPage(found.runs, labels, most, dots, found.damaged, found.next_cursor)


def _colour(place: int) -> int:
    return min(place, COLOURS - 1)


@dataclass(frozen=True)
class Curve:
    """A method's values by phase."""

    label: str
    colour: int
    points: tuple[tuple[float, float], ...]
    """Each 0..1 of the drawing's side."""


@dataclass(frozen=True)
class Drawing:
    """Curves of all methods, over the phases."""

    curves: tuple[Curve, ...]
    most: float
    """The value at its upper edge."""


@dataclass(frozen=True)
class Shown:
    """An exemplar of the run that a buffer holds."""

    address: str
    thumbnail: str
    exemplar_id: int
    class_name: str


@dataclass(frozen=True)
class RunPage:
    """One run."""

    run: StoredRun
    accuracy: Drawing
    bytes_used: Drawing
    exemplars: Drawing
    buffers: tuple[str, ...]
    """Those of the run that there are."""
    shown: tuple[Shown, ...]
    """Those of its exemplars that are still held."""
    may_delete: bool
    """Whether who asks may delete the report."""


@router.page("/runs/{run_id}", "run")
def run(request: Request, run_id: api.RunName, store: StoreDep, grant: GrantDep) -> RunPage:
    api.expect_seen(store, grant, run_id)
    found = store.runs.get(run_id)
    methods = found.report.methods
    return RunPage(
        run=found,
        accuracy=_drawing(methods, lambda phase: phase.accuracy, 1.0),
        bytes_used=_drawing(methods, lambda phase: phase.bytes_used, found.report.budget_bytes),
        exemplars=_drawing(methods, lambda phase: phase.exemplars),
        buffers=tuple(name for name in sorted(found.report.buffers) if _buffer(store, name)),
        shown=tuple(_shown(store, ((each.buffer, each.exemplar_id) for each in found.report.exemplars))),
        may_delete=grant.may("write") and store.runs.is_own(run_id, grant.only_maker),
    )


@router.action("/runs/{run_id}/delete", "write")
def delete_run(run_id: api.RunName, store: StoreDep, grant: GrantDep, form: FormDep) -> str:
    api.delete_run(run_id, store, grant)
    return "/runs"


def _drawing(methods: Sequence[RunMethod], value_of: Callable[[RunPhase], float], least: float = 0.0) -> Drawing:
    """A value of each method over the phases, in a drawing that is ``least`` high or as high as the greatest."""
    most = max([least, *(value_of(phase) for method in methods for phase in method.phases)])
    curves = []
    for place, method in enumerate(methods):
        last = max(1, len(method.phases) - 1)
        points = tuple((number / last, value_of(phase) / (most or 1)) for number, phase in enumerate(method.phases))
        curves.append(Curve(method.label, _colour(place), points))
    return Drawing(tuple(curves), most)


def _buffer(store: Store, name: str) -> Buffer | None:
    try:
        return store.buffer(name)
    except NotFoundError:
        return None


def _shown(store: Store, exemplars: Iterable[tuple[str, int]]) -> Iterable[Shown]:
    for name, exemplar_id in exemplars:
        buffer = _buffer(store, name)
        columns = None if buffer is None else buffer.state.columns.shown
        place = -1 if columns is None else int(columns.positions_of(np.array([exemplar_id], np.uint64))[0])
        if buffer is None or columns is None or place < 0:
            # Evicted, deleted or erased since.
            continue
        class_id = int(columns["class_id"][place])
        address = f"/buffers/{name}/exemplars/{exemplar_id}"
        yield Shown(address, f"{address}/thumbnail.webp", exemplar_id, buffer.state.names.get(class_id, str(class_id)))
