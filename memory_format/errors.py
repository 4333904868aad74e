"""Errors that both sides of the wire agree on.

    ExemplarMemoryError            anything this project refuses, with a code and words that help
    |-- FormatError                the bytes or fields handed over are wrong: fix the caller
    |-- BudgetError                the bytes do not fit: ask for less, or for a larger budget
    |-- NotFoundError              the named thing does not exist
    |-- ConflictError              it exists, and differs from what was asked
    |-- AccessError                whoever asks is not let in, or not in this way: ask who runs the service
    |   |-- UnauthenticatedError   without a key that is good: send one
    |   `-- ForbiddenError         with a key that is for less: ask for another one
    |-- BusyError                  not now: send it again a little later
    |-- MissingLibraryError        a codec needs a library that is not installed here: install it
    `-- StorageError               the memory itself is damaged or cannot write

``code`` is append-only: a code that was once sent keeps its meaning for ever (a test holds the list). The
exceptions know no HTTP; the service maps each class to a status in one table.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

FormatCode = Literal[
    "invalid_request",
    "invalid_batch",
    "batch_too_large",
    "invalid_record",
    "mask_mismatch",
    "invalid_payload",
    "payload_mismatch",
    "unknown_codec",
    "invalid_query",
    "invalid_cursor",
    "invalid_budget",
    "invalid_export",
    "not_acceptable",
]
BudgetCode = Literal[
    "record_exceeds_budget", "budget_exceeded", "disk_limit_exceeded", "quota_exceeded", "learner_quota_exceeded"
]
NotFoundCode = Literal[
    "unknown_buffer",
    "unknown_exemplar",
    "unknown_route",
    "no_matching_exemplars",
    "unknown_snapshot",
    "unknown_run",
    "unknown_key",
    "unknown_vocabulary",
]
ConflictCode = Literal[
    "buffer_exists",
    "idempotency_key_reused",
    "snapshot_exists",
    "stale_version",
    "patch_size_mismatch",
    "vocabulary_mismatch",
    "class_name_taken",
    "other_owner",
    "precondition_failed",
]
AccessCode = Literal["untrusted_host", "untrusted_origin"]
UnauthenticatedCode = Literal["unauthenticated"]
ForbiddenCode = Literal["forbidden"]
BusyCode = Literal["too_busy", "rate_exceeded", "connections_exceeded"]
MissingLibraryCode = Literal["codec_unavailable"]
StorageCode = Literal["corrupt_record", "store_locked", "storage_failed", "internal_error", "replica_behind"]

ErrorCode = Literal[
    FormatCode,
    BudgetCode,
    NotFoundCode,
    ConflictCode,
    AccessCode,
    UnauthenticatedCode,
    ForbiddenCode,
    BusyCode,
    MissingLibraryCode,
    StorageCode,
]

ERROR_CODES: tuple[ErrorCode, ...] = get_args(ErrorCode)


class ExemplarMemoryError(Exception):
    """Base of every error of this project.

    ``details`` holds machine-readable facts (bytes asked for and free, the offending index); they travel in
    the problem document beside ``code``.
    """

    default_code: ErrorCode = "internal_error"

    def __init__(self, message: str, *, code: ErrorCode | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code: ErrorCode = code or self.default_code
        self.details = details


ErrorT = TypeVar("ErrorT", bound=ExemplarMemoryError)


class FormatError(ExemplarMemoryError):
    """What was handed over is malformed."""

    default_code: ErrorCode = "invalid_record"


def at_index(error: ErrorT, index: int) -> ErrorT:
    """The same error, of the record at that place in a batch."""
    return type(error)(f"record {index}: {error.message}", code=error.code, **{**error.details, "index": index})


class BudgetError(ExemplarMemoryError):
    """The bytes asked for do not fit."""

    default_code: ErrorCode = "budget_exceeded"


class NotFoundError(ExemplarMemoryError):
    """There is no such thing."""

    default_code: ErrorCode = "unknown_buffer"


class ConflictError(ExemplarMemoryError):
    """It exists already, and is not what was asked for."""

    default_code: ErrorCode = "buffer_exists"


class AccessError(ExemplarMemoryError):
    """Whoever asks is not let in, or not in this way."""

    default_code: ErrorCode = "untrusted_origin"


class UnauthenticatedError(AccessError):
    """The service asks for a key, and none that is good came."""

    default_code: ErrorCode = "unauthenticated"


class ForbiddenError(AccessError):
    """The key is good, and not for this: its role, buffers or learner are others."""

    default_code: ErrorCode = "forbidden"


class BusyError(ExemplarMemoryError):
    """More is asked for at once than is taken; the same request may be taken a little later."""

    default_code: ErrorCode = "too_busy"


class MissingLibraryError(ExemplarMemoryError):
    """An optional library that a codec needs is not installed."""

    default_code: ErrorCode = "codec_unavailable"


class StorageError(ExemplarMemoryError):
    """The memory is damaged, held by another process, or cannot write."""

    default_code: ErrorCode = "storage_failed"


_CODES_BY_CLASS: dict[type[ExemplarMemoryError], Any] = {
    FormatError: FormatCode,
    BudgetError: BudgetCode,
    NotFoundError: NotFoundCode,
    ConflictError: ConflictCode,
    AccessError: AccessCode,
    UnauthenticatedError: UnauthenticatedCode,
    ForbiddenError: ForbiddenCode,
    BusyError: BusyCode,
    MissingLibraryError: MissingLibraryCode,
    StorageError: StorageCode,
}
_CLASS_BY_CODE = {code: kind for kind, codes in _CODES_BY_CLASS.items() for code in get_args(codes)}


def error_class(code: str) -> type[ExemplarMemoryError] | None:
    """The exception that a client raises for ``code``, None for a code that is not known here."""
    return _CLASS_BY_CODE.get(code)
