"""What is asked of a buffer, as the change that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memory_format import ConflictError, ForbiddenError
from memory_service.store.pure import eviction
from memory_service.store.pure.change import Change
from memory_service.store.pure.columns import Columns, Learners, Rows
from memory_service.store.pure.fit import check_refitting
from memory_service.store.pure.model import LEARNER_MAKER, BufferConfig, check_settings
from memory_service.store.pure.state import State
from memory_service.store.pure.visibility import oldest
from memory_service.store.pushes import candidates


def expect_learner(learner_ids: Sequence[str], only: str | None) -> None:
    """Raises ``ForbiddenError``: of a batch's records one is of another learner than ``only``, if any."""
    if only is None:
        return
    for index, learner_id in enumerate(learner_ids):
        if learner_id != only:
            raise ForbiddenError(
                f"record {index} is of the learner {learner_id[:64]!r}, and the key is for those of {only!r}",
                index=index,
            )


def expect_own(columns: Columns | Rows, learners: Learners, positions: NDArray[np.int64], only: str | None) -> None:
    """Raises ``ForbiddenError``: of the records at ``positions`` one is of another learner than ``only``, if any."""
    if only is None:
        return
    others = positions[columns["learner"][positions] != learners.code(only)]
    if len(others):
        first = int(others[0])
        raise ForbiddenError(
            f"exemplar {columns['exemplar_id'][first]} is of the learner {learners.ids[columns['learner'][first]]!r}, "
            f"and the key is for those of {only!r}"
        )


def expect_made(state: State, learners: Learners, only: str | None) -> None:
    """Raises ``ForbiddenError``: the buffer was made by another than ``only``, if any, as
    :attr:`~memory_service.store.pure.model.BufferConfig.made_by` has it; or that is a learner, and the buffer or one of
    its snapshots holds records of others."""
    if only is None:
        return
    config = state.config
    if config.made_by != only:
        raise ForbiddenError(
            f"buffer {config.name!r} was made with another key: whoever made it may change and delete it, and a key "
            "with the role admin"
        )
    learner_id = only.removeprefix(LEARNER_MAKER)
    if learner_id != only:
        for part in state.held:
            if (part["learner"] != learners.code(learner_id)).any():
                raise ForbiddenError(
                    f"buffer {config.name!r} holds exemplars of other learners than {learner_id!r}: changing and "
                    "deleting it takes a key with the role admin"
                )


def expect_owner(config: BufferConfig, owner: str | None) -> None:
    """Raises ``ConflictError`` (``other_owner``): the buffer does not belong to the run ``owner``, if any is given."""
    if owner is not None and owner != config.owner:
        whose = f"belongs to run {config.owner}" if config.owner else "is shared"
        raise ConflictError(
            f"buffer {config.name!r} {whose}, and not to run {owner!r}", code="other_owner", owner=config.owner
        )


def deletion(state: State, positions: NDArray[np.int64]) -> Change:
    """Delete the live records at some positions."""
    version = state.version + bool(len(positions))
    return state.change(version=version, dead=np.sort(positions), died=np.full(len(positions), version, np.uint64))


def configuring(state: State, wanted: BufferConfig) -> Change | None:
    """Give a buffer other settings; None where that changes nothing.

    Args:
        wanted: but for ``budget_bytes``, which is worked out here.

    Raises:
        FormatError: ``invalid_budget``, or ``invalid_request``.
        BudgetError: ``budget_exceeded`` under ``reject``.
        ConflictError: see :func:`memory_service.store.pure.fit.check_refitting`.
    """
    check_refitting(state.config, wanted, state.held)
    columns, snapshots = state.columns, state.snapshots
    budget_bytes = wanted.budget_for(len(state.classes))
    config = check_settings(replace(wanted, budget_bytes=budget_bytes))
    keep = np.ones(columns.num_records, dtype=bool)
    if columns.bytes_used > budget_bytes:
        competing = candidates([columns], config)
        keep = eviction.plan(config.eviction, competing, columns.num_records, budget_bytes, config.learner_floor)
    surplus = max(0, len(snapshots) - (config.retain_snapshots or len(snapshots)))
    if keep.all() and not surplus and config == state.config:
        return None
    return replace(deletion(state, np.flatnonzero(~keep)), config=config, dropped=oldest(snapshots, surplus))


def taking(state: State, name: str, created_at: float) -> Change | None:
    """Take a snapshot, and drop those beyond the buffer's retention; None where there is one of that name and version.

    Both in one change: what fails halfway would leave one snapshot too many. Raises ``ConflictError``:
    ``snapshot_exists`` at another version.
    """
    known = state.snapshots.get(name)
    if known is not None:
        if known.version == state.version:
            return None
        raise ConflictError(
            f"snapshot {name!r} was taken at version {known.version}, the buffer is at "
            f"{state.version}; delete it or take another name",
            code="snapshot_exists",
            version=known.version,
        )
    newest = max((snapshot.number for snapshot in state.snapshots.values()), default=0)
    keep = state.config.retain_snapshots
    surplus = 0 if keep is None else max(0, len(state.snapshots) + 1 - keep)
    return state.change(snapshot=state.mark(name, created_at, newest + 1), dropped=oldest(state.snapshots, surplus))
