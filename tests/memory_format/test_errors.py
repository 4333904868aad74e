from __future__ import annotations

import pytest

import memory_format
from memory_format import (
    ERROR_CODES,
    AccessError,
    BudgetError,
    BusyError,
    ConflictError,
    ForbiddenError,
    FormatError,
    MissingLibraryError,
    NotFoundError,
    StorageError,
    UnauthenticatedError,
)
from memory_format.errors import error_class

# A code that was once sent keeps its meaning for ever: lines may be added at the end of their group, none
# removed, renamed or moved to another class.
GOLDEN = {
    "invalid_request": FormatError,
    "invalid_batch": FormatError,
    "batch_too_large": FormatError,
    "invalid_record": FormatError,
    "mask_mismatch": FormatError,
    "invalid_payload": FormatError,
    "payload_mismatch": FormatError,
    "unknown_codec": FormatError,
    "invalid_query": FormatError,
    "invalid_cursor": FormatError,
    "invalid_budget": FormatError,
    "invalid_export": FormatError,
    "not_acceptable": FormatError,
    "record_exceeds_budget": BudgetError,
    "budget_exceeded": BudgetError,
    "disk_limit_exceeded": BudgetError,
    "quota_exceeded": BudgetError,
    "learner_quota_exceeded": BudgetError,
    "unknown_buffer": NotFoundError,
    "unknown_exemplar": NotFoundError,
    "unknown_route": NotFoundError,
    "no_matching_exemplars": NotFoundError,
    "unknown_snapshot": NotFoundError,
    "unknown_run": NotFoundError,
    "unknown_key": NotFoundError,
    "unknown_vocabulary": NotFoundError,
    "buffer_exists": ConflictError,
    "idempotency_key_reused": ConflictError,
    "snapshot_exists": ConflictError,
    "stale_version": ConflictError,
    "patch_size_mismatch": ConflictError,
    "vocabulary_mismatch": ConflictError,
    "class_name_taken": ConflictError,
    "other_owner": ConflictError,
    "precondition_failed": ConflictError,
    "untrusted_host": AccessError,
    "untrusted_origin": AccessError,
    "unauthenticated": UnauthenticatedError,
    "forbidden": ForbiddenError,
    "too_busy": BusyError,
    "rate_exceeded": BusyError,
    "connections_exceeded": BusyError,
    "codec_unavailable": MissingLibraryError,
    "corrupt_record": StorageError,
    "store_locked": StorageError,
    "storage_failed": StorageError,
    "internal_error": StorageError,
    "replica_behind": StorageError,
}


def test_codes_are_append_only() -> None:
    assert set(GOLDEN) <= set(ERROR_CODES)


def test_every_code_is_in_the_golden_list() -> None:
    assert set(ERROR_CODES) == set(GOLDEN), "add the new code to GOLDEN"
    assert len(ERROR_CODES) == len(set(ERROR_CODES))


@pytest.mark.parametrize("code", ERROR_CODES)
def test_a_code_has_one_class(code: str) -> None:
    assert error_class(code) is GOLDEN[code]


def test_default_codes_belong_to_their_class() -> None:
    for kind in (
        *(FormatError, BudgetError, NotFoundError, ConflictError),
        *(AccessError, BusyError, MissingLibraryError, StorageError),
    ):
        assert error_class(kind("words").code) is kind


def test_a_code_from_the_future_is_unknown() -> None:
    assert error_class("made_up_later") is None


def test_an_error_carries_code_words_and_details() -> None:
    error = BudgetError("too much", code="record_exceeds_budget", requested_bytes=9)
    assert (error.code, error.message, error.details) == (
        "record_exceeds_budget",
        "too much",
        {"requested_bytes": 9},
    )
    assert str(error) == "too much"


def test_public_names() -> None:
    assert sorted(memory_format.__all__) == sorted(set(memory_format.__all__))
    assert all(hasattr(memory_format, name) for name in memory_format.__all__)
